"""SepASPPHead (DeepLabV3+, arXiv 1802.02611), as mmsegmentation's DepthwiseSeparableASPPHead builds it.

Separable atrous pooling on the top level, upsampled and concatenated with a narrow low level, then two separable
convolutions. Parameters and logits equal mmsegmentation's. Keys as in Detectron2's DeepLab project: ASPP_DILATIONS
without the 1x1 convolution; ASPP_CHANNELS, of the context (0: CONVS_DIM); PROJECT_CHANNELS, of the low level.

A scale equalizer before the final Fusion cannot act through its scale: see SeparableBlock.scale_invariant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scaleeq.choices import one_of
from scaleeq.engine import ShapeSpec
from scaleeq.layers import ConvNormAct, NormFactory, SeparableBlock, batch_norm
from scaleeq.tasks.losses.segmentation import SegmentationLoss

from .aspp import dilations_at
from .base import Features, Level, SegmentationHead, head_arguments, take_levels
from .context import atrous_pooling
from .final import FusionOptions


class SepASPPHead(SegmentationHead):
    """Top level -> context (separable atrous pooling); [context, low level] -> fusion -> refine -> classifier."""

    def __init__(
        self,
        *,
        input_shape: Mapping[str, Level],
        channels: int,
        num_classes: int,
        dilations: Sequence[int] = (),
        widths: Mapping[str, int] | None = None,
        norm: NormFactory | None = batch_norm,
        dropout: float = 0.1,
        loss: SegmentationLoss | None = None,
        fusion: FusionOptions | None = None,
    ):
        """
        Args:
            input_shape: the low level, whose stride the logits have, and the top level.
            channels: width of the fusion.
            dilations: of the context's 3x3 convolutions; empty: those of the top level's stride.
            widths: of the final Fusion's branches; default {"context": channels, "low_level": 48}.
        """
        super().__init__(
            input_shape=input_shape, channels=channels, num_classes=num_classes, dropout=dropout, loss=loss
        )
        fusion = fusion or FusionOptions()
        for name in widths or ():
            one_of(name, ("context", "low_level"), key="widths")
        widths = {"context": channels, "low_level": 48, **(widths or {})}
        low_level, top = take_levels(input_shape, 2, "SepASPPHead")
        self.context = atrous_pooling(
            top.channels,
            widths["context"],
            dilations=dilations_at(top.stride, dilations),
            separable=True,
            norm=norm,
            gate=fusion.context_gate_kind,
        )
        self.fusion = fusion.fusion(
            widths,
            mix=lambda width: SeparableBlock(width, channels, norm=norm),
            num_classes=num_classes,
            reference="low_level",
            laterals={"low_level": ConvNormAct(low_level.channels, widths["low_level"], norm=norm)},
        )
        self.refine = SeparableBlock(channels, channels, norm=norm)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        if len(head.PROJECT_CHANNELS) != 1:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS is {head.PROJECT_CHANNELS}; SepASPPHead has one low level, "
                "so give one number"
            )
        return {
            **head_arguments(
                cfg,
                input_shape,
                "SepASPPHead",
                num_levels=2,
                reads=("ASPP_DILATIONS", "ASPP_CHANNELS", "PROJECT_CHANNELS", "CONTEXT_GATE"),
                lacks={"PYRAMID": "pyramid"},
            ),
            "dilations": head.ASPP_DILATIONS,
            "widths": {"context": head.ASPP_CHANNELS or head.CONVS_DIM, "low_level": head.PROJECT_CHANNELS[0]},
            "fusion": FusionOptions.from_config(cfg),
        }

    def fuse(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) of the low level's size."""
        low_level, top = self.in_features
        return self.refine(self.fusion({"context": self.context(features[top]), "low_level": features[low_level]}))
