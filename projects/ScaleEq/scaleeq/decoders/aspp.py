"""ASPPHead (DeepLabV3, arXiv 1706.05587), as mmsegmentation builds it: atrous spatial pyramid pooling on one level.

The pooling is the head's only Fusion: the image's mean, a 1x1 and three dilated 3x3 convolutions of the level,
concatenated and mixed by 3x3. Parameters and logits equal mmsegmentation's ASPPHead. As in Detectron2's DeepLab
project, MODEL.SEM_SEG_HEAD.ASPP_DILATIONS leaves out the 1x1 convolution, which is always there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scaleeq.engine import ShapeSpec
from scaleeq.layers import NormFactory, batch_norm
from scaleeq.tasks.losses.segmentation import SegmentationLoss

from .base import Features, Level, SegmentationHead, head_arguments, take_levels
from .context import atrous_pooling
from .final import FusionOptions

DILATIONS = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # output stride -> 96, 192 and 288 pixels of the image


class ASPPHead(SegmentationHead):
    """Level -> fusion (atrous pooling) -> classifier, at the level's stride."""

    def __init__(
        self,
        *,
        input_shape: Mapping[str, Level],
        channels: int,
        num_classes: int,
        dilations: Sequence[int] = (),
        norm: NormFactory | None = batch_norm,
        dropout: float = 0.1,
        loss: SegmentationLoss | None = None,
        fusion: FusionOptions | None = None,
    ):
        """
        Args:
            input_shape: one level.
            channels: width of the branches and of the fusion.
            dilations: of the 3x3 convolutions; empty: DILATIONS of the level's stride.
            fusion: its combine; the branches are of one size, so its transfer has nothing to do.
        """
        super().__init__(
            input_shape=input_shape, channels=channels, num_classes=num_classes, dropout=dropout, loss=loss
        )
        fusion = fusion or FusionOptions()
        width, stride = take_levels(input_shape, 1, "ASPPHead")[0][:2]
        self.fusion = atrous_pooling(
            width,
            channels,
            dilations=dilations_at(stride, dilations),
            combine=fusion.combine,
            norm=norm,
            gate=fusion.context_gate_kind,
        )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        if head.ASPP_CHANNELS not in (0, head.CONVS_DIM):
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.ASPP_CHANNELS is {head.ASPP_CHANNELS}, but ASPPHead classifies the pooled map "
                f"itself, whose width is CONVS_DIM, {head.CONVS_DIM}; leave ASPP_CHANNELS 0"
            )
        reads = ("ASPP_DILATIONS", "ASPP_CHANNELS", "CONTEXT_GATE")
        lacks = {"PYRAMID": "pyramid", "FUSION.TRANSFER": "branches of different sizes to transfer"}
        return {
            **head_arguments(cfg, input_shape, "ASPPHead", num_levels=1, reads=reads, lacks=lacks),
            "dilations": head.ASPP_DILATIONS,
            "fusion": FusionOptions.from_config(cfg),
        }

    def fuse(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H, W) -> (N, channels, H, W)."""
        return self.fusion(features[self.in_features[0]])


def dilations_at(stride: int, dilations: Sequence[int]) -> Sequence[int]:
    """`dilations`, or those that output stride `stride` implies; ValueError where it implies none."""
    if dilations:
        return dilations
    if stride not in DILATIONS:
        raise ValueError(
            f"no dilations are known for a level of stride {stride}, only for {', '.join(map(str, DILATIONS))}; "
            "set MODEL.SEM_SEG_HEAD.ASPP_DILATIONS"
        )
    return DILATIONS[stride]
