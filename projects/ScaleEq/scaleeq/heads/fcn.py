"""FCNHead, as mmsegmentation builds it: 3x3 convolutions, then optionally a Fusion that concatenates input and result.

One convolution without the concatenation is the auxiliary head of UPerNet and PSPNet.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..engine import SEM_SEG_HEADS_REGISTRY, ShapeSpec, configurable
from ..fusion import Branch, Concat, EqualizerSpec, Fusion
from ..layers import ConvNormAct, NormFactory, batch_norm
from ..losses import LossOptions, SegmentationLoss
from .base import (
    Features,
    Level,
    SegmentationHead,
    check_common_stride,
    common_arguments,
    equalizer_specs,
    refuse_keys,
    resolve_levels,
    resolve_norm,
)


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(SegmentationHead):
    """Level -> convolutions -> [fusion with the level itself (concat, 3x3)] -> classifier, at the level's stride."""

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        input_shape: Level,
        channels: int,
        num_classes: int,
        num_convs: int = 2,
        concat_input: bool = True,
        norm: NormFactory | None = batch_norm,
        dropout: float = 0.1,
        loss: SegmentationLoss | None = None,
        equalizer: EqualizerSpec | None = None,
    ):
        super().__init__(
            in_features=[in_feature],
            channels=channels,
            num_classes=num_classes,
            common_stride=input_shape.stride,
            dropout=dropout,
            loss=loss,
        )
        if num_convs < 1:
            raise ValueError(f"num_convs is {num_convs}; FCNHead needs at least one convolution")
        widths = [input_shape.channels] + [channels] * num_convs
        convs = nn.Sequential(*(ConvNormAct(a, b, kernel_size=3, norm=norm) for a, b in itertools.pairwise(widths)))
        self.body: nn.Module = convs
        if concat_input:
            branches = {"input": Branch(input_shape.channels), "convs": Branch(channels, lateral=convs)}
            mix = ConvNormAct(input_shape.channels + channels, channels, kernel_size=3, norm=norm)
            self.body = Fusion(branches, combine=Concat(), mix=mix, equalizer=equalizer)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        if len(head.IN_FEATURES) != 1:
            raise ValueError(f"FCNHead reads one level; MODEL.SEM_SEG_HEAD.IN_FEATURES is {head.IN_FEATURES}")
        refuse_keys(cfg, "FCNHead", "PYRAMID.NAME", "PYRAMID.TRANSFER", "FUSION.TRANSFER", "FUSION.COMBINE")
        ((level, shape),) = resolve_levels(head.IN_FEATURES, input_shape).items()
        check_common_stride(cfg, shape.stride)
        return {
            **common_arguments(cfg),
            "in_feature": level,
            "input_shape": shape,
            "channels": head.CONVS_DIM,
            "norm": resolve_norm(head.NORM),
            "equalizer": equalizer_specs(cfg)["head"],
        }

    def fuse(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H, W) -> (N, channels, H, W)."""
        return self.body(features[self.in_features[0]])


def auxiliary_heads(cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, FCNHead]:
    """The heads of MODEL.AUX_HEAD: level -> one convolution and a classifier, with its loss weight.

    Their loss is the main head's without OHEM, as in mmsegmentation and HRNet-OCR, whose OHEM is the main head's alone.
    """
    keys = cfg.MODEL.AUX_HEAD
    if len(keys.IN_FEATURES) != len(keys.LOSS_WEIGHTS):
        raise ValueError(
            f"MODEL.AUX_HEAD has {len(keys.IN_FEATURES)} IN_FEATURES {keys.IN_FEATURES} "
            f"but {len(keys.LOSS_WEIGHTS)} LOSS_WEIGHTS {keys.LOSS_WEIGHTS}; give one weight per level"
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
            in_feature=level,
            input_shape=resolve_levels([level], input_shape)[level],
            channels=keys.CONVS_DIM,
            num_convs=1,
            concat_input=False,
            norm=resolve_norm(cfg.MODEL.SEM_SEG_HEAD.NORM),
        )
    return heads
