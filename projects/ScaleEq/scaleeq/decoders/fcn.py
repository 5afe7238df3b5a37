"""FCNHead, as mmsegmentation builds it: 3x3 convolutions, then optionally a Fusion that concatenates input and result.

One convolution without the concatenation is the auxiliary head of UPerNet and PSPNet. Of several levels, a Fusion
concatenates all at the finest one's size first, and its 1x1 mix is the head's one convolution: HRNet's head (arXiv
1904.04514). Parameters and logits equal mmsegmentation's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scaleeq.engine import ShapeSpec
from scaleeq.fusion import Branch, Concat, Fusion
from scaleeq.layers import ConvNormAct, NormFactory, batch_norm
from scaleeq.tasks.losses.options import LossOptions
from scaleeq.tasks.losses.segmentation import SegmentationLoss

from .base import Features, Level, SegmentationHead, common_arguments, head_arguments, resolve_levels, resolve_norm
from .final import FusionOptions


class FCNHead(SegmentationHead):
    """Level -> convolutions -> [fusion with the level itself (concat, 3x3)] -> classifier, at the level's stride.

    Levels -> fusion (concat, 1x1) -> classifier, at the finest stride.
    """

    def __init__(
        self,
        *,
        input_shape: Mapping[str, Level],
        channels: int,
        num_classes: int,
        num_convs: int = 2,
        concat_input: bool = True,
        norm: NormFactory | None = batch_norm,
        dropout: float = 0.1,
        loss: SegmentationLoss | None = None,
        fusion: FusionOptions | None = None,
    ):
        """
        Args:
            input_shape: one level, or several, finest first: name -> channels and stride.
            num_convs, concat_input: of the head on one level.
            fusion: of several levels.
        """
        super().__init__(
            input_shape=input_shape, channels=channels, num_classes=num_classes, dropout=dropout, loss=loss
        )
        widths = {level: shape.channels for level, shape in input_shape.items()}
        if len(widths) > 1:
            self.fusion = (fusion or FusionOptions()).fusion(
                widths,
                mix=lambda width: ConvNormAct(width, channels, norm=norm),
                num_classes=num_classes,
            )
            return
        if num_convs < 1:
            raise ValueError(f"num_convs is {num_convs}; FCNHead needs at least one convolution")
        (width,) = widths.values()
        steps = itertools.pairwise([width] + [channels] * num_convs)
        convs = nn.Sequential(*(ConvNormAct(a, b, kernel_size=3, norm=norm) for a, b in steps))
        self.body: nn.Module = convs
        if concat_input:
            branches = {"input": Branch(width), "convs": Branch(channels, lateral=convs)}
            mix = ConvNormAct(width + channels, channels, kernel_size=3, norm=norm)
            self.body = Fusion(branches, combine=Concat(), mix=mix)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        lacks = {"PYRAMID": "pyramid"}
        if len(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES) == 1:
            lacks["FUSION"] = "levels to fuse, with one level in IN_FEATURES"
        return {
            **head_arguments(cfg, input_shape, "FCNHead", lacks=lacks),
            "fusion": FusionOptions.from_config(cfg),
        }

    def fuse(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) of the finest level's size."""
        if len(self.in_features) > 1:
            return self.fusion({level: features[level] for level in self.in_features})
        return self.body(features[self.in_features[0]])


def auxiliary_heads(cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, FCNHead]:
    """The heads of MODEL.AUX_HEAD: level -> one convolution and a classifier, with its loss weight.

    Their loss is the main head's without OHEM, as in mmsegmentation and HRNet-OCR, whose OHEM is the main head's alone.
    """
    keys = cfg.MODEL.AUX_HEAD
    if len(keys.IN_FEATURES) != len(keys.LOSS_WEIGHTS):
        raise ValueError(
            f"MODEL.AUX_HEAD.IN_FEATURES has {len(keys.IN_FEATURES)} levels {keys.IN_FEATURES} but "
            f"MODEL.AUX_HEAD.LOSS_WEIGHTS {len(keys.LOSS_WEIGHTS)} {keys.LOSS_WEIGHTS}; give one weight per level"
        )
    options = LossOptions.from_config(cfg).without_ohem()
    heads = {}
    for level, weight in zip(keys.IN_FEATURES, keys.LOSS_WEIGHTS, strict=True):
        shared = common_arguments(cfg)
        shared["loss"] = SegmentationLoss(
            ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, weight=weight, options=options
        )
        heads[level] = FCNHead(
            **shared,
            input_shape=resolve_levels([level], input_shape, "MODEL.AUX_HEAD.IN_FEATURES"),
            channels=keys.CONVS_DIM,
            num_convs=1,
            concat_input=False,
            norm=resolve_norm(cfg.MODEL.SEM_SEG_HEAD.NORM),
        )
    return heads
