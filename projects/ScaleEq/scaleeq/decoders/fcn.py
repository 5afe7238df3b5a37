"""FCN, as mmsegmentation builds it: 3x3 convolutions, then optionally a Fusion that concatenates input and result.

One convolution without the concatenation is the auxiliary decoder of UPerNet and PSPNet. Of several levels, a Fusion
concatenates all at the finest one's size first, and its 1x1 mix is the one convolution: HRNet's (arXiv 1904.04514).
Parameters and logits equal mmsegmentation's FCNHead.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import nn

from scaleeq.fusion import Branch, Concat, Fusion
from scaleeq.layers import ConvNormAct, Level, NormFactory, batch_norm

from .base import Decoder, Features, widths_of
from .final import FusionOptions


class FCN(Decoder):
    """Level -> convolutions -> [fusion with the level itself (concat, 3x3)], at the level's stride.

    Levels -> fusion (concat, 1x1), at the finest stride.
    """

    def __init__(
        self,
        levels: Mapping[str, Level],
        channels: int,
        *,
        num_convs: int = 2,
        concat_input: bool = True,
        fusion: FusionOptions | None = None,
        norm: NormFactory | None = batch_norm,
    ):
        """
        Args:
            levels: one, or several, finest first.
            num_convs, concat_input: on one level.
            fusion: of several levels.
        """
        super().__init__(levels, channels)
        if len(levels) > 1:
            self.fusion = (fusion or FusionOptions()).fusion(
                widths_of(levels), mix=lambda width: ConvNormAct(width, channels, norm=norm)
            )
            return
        if num_convs < 1:
            raise ValueError(f"num_convs is {num_convs}; FCN needs at least one convolution")
        (width,) = widths_of(levels).values()
        steps = itertools.pairwise([width] + [channels] * num_convs)
        convs = nn.Sequential(*(ConvNormAct(a, b, kernel_size=3, norm=norm) for a, b in steps))
        self.body: nn.Module = convs
        # What came in stands beside what was made of it.
        if concat_input:
            branches = {"input": Branch(width), "convs": Branch(channels, lateral=convs)}
            mix = ConvNormAct(width + channels, channels, kernel_size=3, norm=norm)
            self.body = Fusion(branches, combine=Concat(), mix=mix)

    def forward(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) of the finest level's size."""
        if len(self.in_features) > 1:
            return self.fusion({level: features[level] for level in self.in_features})
        return self.body(features[self.in_features[0]])
