"""PSP (PSPNet, arXiv 1612.01105), as mmsegmentation builds it: pyramid pooling on one level.

The pooling is the decoder's only Fusion: [level, pooled maps], concatenated and mixed by 3x3. Parameters and logits
equal mmsegmentation's PSPHead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from scaleeq.layers import Level, NormFactory, batch_norm

from .base import Decoder, Features, take_levels
from .context import PoolingOptions


class PSP(Decoder):
    """Level -> fusion (pyramid pooling), at the level's stride."""

    def __init__(
        self,
        levels: Mapping[str, Level],
        channels: int,
        *,
        context: PoolingOptions | None = None,
        norm: NormFactory | None = batch_norm,
    ):
        """
        Args:
            levels: one.
            channels: width of the pooled branches and of the fusion.
            context: default pools of 1, 2, 3 and 6 cells a side, upsampled bilinearly.
        """
        super().__init__(levels, channels)
        (level,) = take_levels(levels, 1, "PSP")
        self.fusion = (context or PoolingOptions()).fusion(level.channels, channels, norm=norm)

    def forward(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H, W) -> (N, channels, H, W)."""
        return self.fusion(features[self.in_features[0]])
