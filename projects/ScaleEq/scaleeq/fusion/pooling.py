"""Pyramid pooling (PSPNet, arXiv 1612.01105) as a Fusion of a map with its pooled versions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..layers import ConvNormAct, NormFactory, batch_norm
from .combine import Concat
from .equalizer import EqualizerSpec
from .fusion import Branch, Fusion
from .transfers import Resize


def pyramid_pooling(
    in_channels: int,
    channels: int,
    *,
    pool_scales: Sequence[int] = (1, 2, 3, 6),
    norm: NormFactory | None = batch_norm,
    equalizer: EqualizerSpec | None = None,
) -> Fusion:
    """Fusion x: (N, in_channels, H, W) -> (N, channels, H, W).

    Branches: "input", x itself, and "pool<k>", x averaged to k x k cells, 1x1 convolution to `channels`, upsampled.
        Mixed by 3x3.
    """
    branches = {"input": Branch(in_channels)}
    for scale in pool_scales:
        lateral = nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvNormAct(in_channels, channels, norm=norm))
        branches[f"pool{scale}"] = Branch(channels, lateral=lateral, transfer=Resize("bilinear"))
    width = in_channels + channels * len(pool_scales)
    mix = ConvNormAct(width, channels, kernel_size=3, norm=norm)
    return Fusion(branches, combine=Concat(), mix=mix, reference="input", equalizer=equalizer)
