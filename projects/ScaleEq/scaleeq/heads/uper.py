"""UPerHead (arXiv 1807.10221), as mmsegmentation builds it: pyramid pooling on the top level, an FPN, one concatenation
of all levels.

Convolutions are conv-BN-ReLU without bias, upsampling is bilinear with align_corners False. Parameters and logits equal
mmsegmentation's UPerHead. MODEL.FUSION.COMBINE "sum" replaces the final concatenation by a sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..engine import SEM_SEG_HEADS_REGISTRY, ShapeSpec, configurable
from ..fusion import Branch, EqualizerSpec, Fusion, make_combine, make_transfer, pyramid_pooling
from ..layers import ConvNormAct, NormFactory, batch_norm
from ..losses import SegmentationLoss
from ..pyramids import fpn
from .base import (
    Features,
    Level,
    SegmentationHead,
    check_common_stride,
    common_arguments,
    equalizer_specs,
    resolve_levels,
    resolve_norm,
)


@SEM_SEG_HEADS_REGISTRY.register()
class UPerHead(SegmentationHead):
    """context (pyramid pooling) -> pyramid (FPN) -> fusion (concat, 3x3) -> classifier, at the finest stride."""

    @configurable
    def __init__(
        self,
        *,
        input_shape: Mapping[str, Level],
        channels: int,
        num_classes: int,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        norm: NormFactory | None = batch_norm,
        dropout: float = 0.1,
        loss: SegmentationLoss | None = None,
        transfers: Mapping[str, str] | None = None,
        combine: str = "concat",
        equalizers: Mapping[str, EqualizerSpec | None] | None = None,
    ):
        """
        Args:
            input_shape: the levels used, finest first: name -> channels and stride.
            channels: width of context, pyramid and fusion.
            pool_scales: cells per side of the pooled maps.
            transfers: "pyramid" and "fusion" -> one of fusion.TRANSFERS; default bilinear.
            combine: of the final fusion, "concat" or "sum".
            equalizers: "head" (context and final fusion) and "pyramid" -> spec or None.
        """
        levels = list(input_shape)
        super().__init__(
            in_features=levels,
            channels=channels,
            num_classes=num_classes,
            common_stride=input_shape[levels[0]].stride,
            dropout=dropout,
            loss=loss,
        )
        transfers = {"pyramid": "bilinear", "fusion": "bilinear", **(transfers or {})}
        equalizers = {"head": None, "pyramid": None, **(equalizers or {})}
        self.top = levels[-1]
        widths = {level: shape.channels for level, shape in input_shape.items()}
        self.context = pyramid_pooling(
            widths[self.top], channels, pool_scales=pool_scales, norm=norm, equalizer=equalizers["head"]
        )
        self.pyramid = fpn(
            {**widths, self.top: channels},
            channels,
            transfer=lambda: make_transfer(transfers["pyramid"], channels),
            norm=norm,
            ready_top=True,
            equalizer=equalizers["pyramid"],
        )
        branches = {levels[0]: Branch(channels)}
        branches |= {level: Branch(channels, transfer=make_transfer(transfers["fusion"])) for level in levels[1:]}
        width = channels * len(levels) if combine == "concat" else channels
        self.fusion = Fusion(
            branches,
            combine=make_combine(combine),
            mix=ConvNormAct(width, channels, kernel_size=3, norm=norm),
            equalizer=equalizers["head"],
        )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        levels = resolve_levels(head.IN_FEATURES, input_shape)
        if cfg.MODEL.PYRAMID.NAME not in ("", "fpn"):
            raise ValueError(f"MODEL.PYRAMID.NAME is {cfg.MODEL.PYRAMID.NAME!r}; UPerHead takes 'fpn' (or '')")
        check_common_stride(cfg, next(iter(levels.values())).stride)
        return {
            **common_arguments(cfg),
            "input_shape": levels,
            "channels": head.CONVS_DIM,
            "pool_scales": head.POOL_SCALES,
            "norm": resolve_norm(head.NORM),
            "transfers": {
                "pyramid": cfg.MODEL.PYRAMID.TRANSFER or "bilinear",
                "fusion": cfg.MODEL.FUSION.TRANSFER or "bilinear",
            },
            "combine": cfg.MODEL.FUSION.COMBINE or "concat",
            "equalizers": equalizer_specs(cfg),
        }

    def fuse(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) of the finest level's size."""
        levels = {level: features[level] for level in self.in_features[:-1]}
        levels[self.top] = self.context(features[self.top])
        return self.fusion(self.pyramid(levels))
