"""UPer (arXiv 1807.10221), as mmsegmentation builds it: pyramid pooling on the top level, an FPN, one concatenation of
all levels.

Convolutions are conv-BN-ReLU without bias, upsampling is bilinear with align_corners False. Parameters and logits equal
mmsegmentation's UPerHead. MODEL.PYRAMID exchanges the FPN (FaPN, BiFPN, ...), MODEL.FUSION the concatenation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from scaleeq.layers import ConvNormAct, Level, NormFactory, batch_norm

from .base import Features, PyramidDecoder, widths_of
from .context import PoolingOptions
from .final import FusionOptions
from .pyramid import PyramidOptions, build_pyramid


class UPer(PyramidDecoder):
    """context (pyramid pooling) -> pyramid (FPN) -> fusion (concat, 3x3), at the finest stride."""

    pyramid_parts = ("context", "pyramid")

    def __init__(
        self,
        levels: Mapping[str, Level],
        channels: int,
        *,
        context: PoolingOptions | None = None,
        pyramid: PyramidOptions | None = None,
        fusion: FusionOptions | None = None,
        norm: NormFactory | None = batch_norm,
    ):
        """
        Args:
            levels: finest first.
            channels: width of context, pyramid (unless it states its own) and fusion.
            context: default pools of 1, 2, 3 and 6 cells a side, without gates.
            pyramid: default an FPN.
            fusion: the final one; default a concatenation of bilinearly upsampled levels.
        """
        super().__init__(levels, channels)
        pyramid = pyramid or PyramidOptions(name="fpn", channels=channels)
        self.top = self.in_features[-1]
        widths = widths_of(levels)
        self.context = (context or PoolingOptions()).fusion(widths[self.top], pyramid.channels, norm=norm)
        widths[self.top] = pyramid.channels
        self.pyramid = build_pyramid(widths, pyramid, norm=norm, activation=True, ready_top=True)
        self.fusion = (fusion or FusionOptions()).fusion(
            self.pyramid.out_channels, mix=lambda width: ConvNormAct(width, channels, kernel_size=3, norm=norm)
        )

    def pyramid_levels(self, features: Features) -> dict[str, torch.Tensor]:
        """features: level -> (N, C_level, H_level, W_level) -> level -> map of the pyramid, which has the context."""
        levels = {level: features[level] for level in self.in_features[:-1]}
        levels[self.top] = self.context(features[self.top])
        return self.pyramid(levels)

    def fused(self, levels: Features) -> torch.Tensor:
        """levels: of the pyramid -> (N, channels, H, W) of the finest level's size."""
        return self.fusion(levels)
