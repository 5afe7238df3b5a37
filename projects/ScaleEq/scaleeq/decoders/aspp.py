"""ASPP (DeepLabV3, arXiv 1706.05587), as mmsegmentation builds it: atrous spatial pyramid pooling on one level.

The pooling is the decoder's only Fusion: the image's mean, a 1x1 and three dilated 3x3 convolutions of the level,
concatenated and mixed by 3x3. Parameters and logits equal mmsegmentation's ASPPHead. As in Detectron2's DeepLab
project, MODEL.SEM_SEG_HEAD.ASPP_DILATIONS leaves out the 1x1 convolution, which is always there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from scaleeq.layers import Level, NormFactory, batch_norm

from .base import Decoder, Features, take_levels
from .context import AtrousOptions


class ASPP(Decoder):
    """Level -> fusion (atrous pooling), at the level's stride."""

    def __init__(
        self,
        levels: Mapping[str, Level],
        channels: int,
        *,
        context: AtrousOptions | None = None,
        norm: NormFactory | None = batch_norm,
    ):
        """
        Args:
            levels: one.
            channels: width of the branches and of the fusion.
            context: default the dilations that the level's stride implies, concatenated.
        """
        super().__init__(levels, channels)
        (level,) = take_levels(levels, 1, "ASPP")
        self.fusion = (context or AtrousOptions()).fusion(level, channels, norm=norm)

    def forward(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H, W) -> (N, channels, H, W)."""
        return self.fusion(features[self.in_features[0]])
