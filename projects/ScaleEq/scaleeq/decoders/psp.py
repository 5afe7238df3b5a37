"""PSPHead (PSPNet, arXiv 1612.01105), as mmsegmentation builds it: pyramid pooling on one level.

The pooling is the head's only Fusion: [level, pooled maps], concatenated and mixed by 3x3. Parameters and logits equal
mmsegmentation's PSPHead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scaleeq.engine import ShapeSpec
from scaleeq.layers import NormFactory, batch_norm
from scaleeq.tasks.losses.segmentation import SegmentationLoss

from .base import Features, Level, SegmentationHead, head_arguments, take_levels
from .context import pyramid_pooling
from .final import FusionOptions


class PSPHead(SegmentationHead):
    """Level -> fusion (pyramid pooling) -> classifier, at the level's stride."""

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
        fusion: FusionOptions | None = None,
    ):
        """
        Args:
            input_shape: one level.
            channels: width of the pooled branches and of the fusion.
            pool_scales: cells per side of the pooled maps.
            fusion: its transfer is that of the pooled maps, "bilinear" or "nearest".
        """
        super().__init__(
            input_shape=input_shape, channels=channels, num_classes=num_classes, dropout=dropout, loss=loss
        )
        fusion = fusion or FusionOptions()
        if fusion.transfer not in ("bilinear", "nearest"):
            raise ValueError(
                f"MODEL.FUSION.TRANSFER is {fusion.transfer!r}; PSPHead upsamples maps of a few cells by 'bilinear' or "
                "'nearest', and MODEL.SEM_SEG_HEAD.CONTEXT_GATE gates them"
            )
        if fusion.context_gate and fusion.transfer == "nearest":
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.CONTEXT_GATE upsamples by 'bilinear', not MODEL.FUSION.TRANSFER 'nearest'"
            )
        self.fusion = pyramid_pooling(
            take_levels(input_shape, 1, "PSPHead")[0].channels,
            channels,
            pool_scales=pool_scales,
            transfer=fusion.transfer,
            norm=norm,
            gate=fusion.context_gate_kind,
        )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        lacks = {
            "PYRAMID": "pyramid",
            "FUSION.COMBINE": "branches of one width: it concatenates a level with its pooled maps",
        }
        return {
            **head_arguments(
                cfg, input_shape, "PSPHead", num_levels=1, reads=("POOL_SCALES", "CONTEXT_GATE"), lacks=lacks
            ),
            "pool_scales": cfg.MODEL.SEM_SEG_HEAD.POOL_SCALES,
            "fusion": FusionOptions.from_config(cfg),
        }

    def fuse(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H, W) -> (N, channels, H, W)."""
        return self.fusion(features[self.in_features[0]])
