"""UPerHead (arXiv 1807.10221), as mmsegmentation builds it: pyramid pooling on the top level, an FPN, one concatenation
of all levels.

Convolutions are conv-BN-ReLU without bias, upsampling is bilinear with align_corners False. Parameters and logits equal
mmsegmentation's UPerHead. MODEL.PYRAMID exchanges the FPN (FaPN, BiFPN, ...), MODEL.FUSION the concatenation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scaleeq.engine import ShapeSpec
from scaleeq.layers import ConvNormAct, NormFactory, batch_norm
from scaleeq.tasks.losses.segmentation import SegmentationLoss

from .base import Features, Level, SegmentationHead, head_arguments
from .context import pyramid_pooling
from .final import FusionOptions
from .pyramid import PyramidOptions, build_pyramid


class UPerHead(SegmentationHead):
    """context (pyramid pooling) -> pyramid (FPN) -> fusion (concat, 3x3) -> classifier, at the finest stride."""

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
        pyramid: PyramidOptions | None = None,
        fusion: FusionOptions | None = None,
    ):
        """
        Args:
            input_shape: the levels used, finest first: name -> channels and stride.
            channels: width of context, pyramid (unless it states its own) and fusion.
            pool_scales: cells per side of the pooled maps.
            pyramid: default an FPN.
            fusion: of the final Fusion.
        """
        super().__init__(
            input_shape=input_shape, channels=channels, num_classes=num_classes, dropout=dropout, loss=loss
        )
        pyramid = pyramid or PyramidOptions(name="fpn", channels=channels)
        fusion = fusion or FusionOptions()
        self.top = self.in_features[-1]
        widths = {level: shape.channels for level, shape in input_shape.items()}
        self.context = pyramid_pooling(
            widths[self.top],
            pyramid.channels,
            pool_scales=pool_scales,
            norm=norm,
            gate=fusion.context_gate_kind,
        )
        self.pyramid = build_pyramid(
            {**widths, self.top: pyramid.channels},
            pyramid,
            norm=norm,
            activation=True,
            ready_top=True,
        )
        self.fusion = fusion.fusion(
            self.pyramid.out_channels,
            mix=lambda width: ConvNormAct(width, channels, kernel_size=3, norm=norm),
            num_classes=num_classes,
        )

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        lacks = {"PYRAMID.NORM": "norms but those of SEM_SEG_HEAD.NORM"}
        return {
            **head_arguments(cfg, input_shape, "UPerHead", reads=("POOL_SCALES", "CONTEXT_GATE"), lacks=lacks),
            "pool_scales": head.POOL_SCALES,
            "pyramid": PyramidOptions.from_config(cfg, name="fpn", channels=head.CONVS_DIM),
            "fusion": FusionOptions.from_config(cfg),
        }

    def fuse(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) of the finest level's size."""
        levels = {level: features[level] for level in self.in_features[:-1]}
        levels[self.top] = self.context(features[self.top])
        return self.fusion(self.pyramid(levels))
