"""ESeg (arXiv 2203.12683): levels up to stride 512, a BiFPN over all of them, one softmax-weighted sum.

No code was published; where the paper is silent this is the reading that reproduces its sizes. The levels beyond the
backbone's are average pooled from its raw top level; every level has one lateral; the sum is followed by one separable
3x3 convolution, whose pointwise part has a bias besides its norm. Batch norms have TensorFlow's settings. Every width,
depth and number of cells is a key, so the family is

    model   MODEL.TIMM            CONVS_DIM   PYRAMID.REPEATS
    Lite-S  b0, width 0.4, depth 0.6   64   1
    Lite-M  b0, width 0.6, depth 1.0   80   2
    Lite-L  b0                         96   3
    S       b1                         96   4
    M       b4                        192   5
    L       b7                        288   6

with NAME tf_efficientnet_<...>. Any backbone with levels of strides 4 to 32 will do, ResNet-50 in the paper's ablation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scaleeq.layers import Level, NormFactory, SeparableConv, batch_norm

from .base import Features, PyramidDecoder, widths_of
from .final import FusionOptions
from .pyramid import PyramidOptions, build_pyramid

COARSEST_STRIDE = 512  # pixels; P9
BN_EPS, BN_MOMENTUM = 1e-3, 0.01  # TensorFlow's 0.99 is torch's 0.01


class ESeg(PyramidDecoder):
    """context (pooled levels) -> pyramid (BiFPN) -> fusion (softmax sum, 3x3), at the finest stride."""

    def __init__(
        self,
        levels: Mapping[str, Level],
        channels: int,
        *,
        pyramid: PyramidOptions | None = None,
        fusion: FusionOptions | None = None,
        norm: NormFactory | None = batch_norm,
    ):
        """
        Args:
            levels: finest first, each of twice the stride of the one before.
            channels: width of the map.
            pyramid: default one cell of a BiFPN, `channels` wide.
            fusion: default a softmax-weighted sum of bilinearly upsampled levels.
            norm: of the pyramid and of the separable convolution.
        """
        super().__init__(levels, channels)
        self.pooled_levels = pooled_levels(levels)
        widths = widths_of(levels)
        self.pyramid = build_pyramid(
            widths | dict.fromkeys(self.pooled_levels, widths[self.in_features[-1]]),
            pyramid or PyramidOptions(name="bifpn", channels=channels),
            norm=norm,
        )

        def mix(width: int) -> nn.Module:
            # The norm stands outside of the block, which so keeps its bias.
            after = [] if norm is None else [norm(channels)]
            return nn.Sequential(SeparableConv(width, channels, norm=None), *after, nn.SiLU())

        self.fusion = (fusion or FusionOptions(combine="softmax")).fusion(self.pyramid.out_channels, mix=mix)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eps, module.momentum = BN_EPS, BN_MOMENTUM

    def pyramid_levels(self, features: Features) -> dict[str, torch.Tensor]:
        """features: level -> (N, C_level, H_level, W_level) -> level -> map of the pyramid, of pooled levels too."""
        levels = {level: features[level] for level in self.in_features}
        x = features[self.in_features[-1]]
        for level in self.pooled_levels:
            # Half the size, rounded up; what lies outside of the map does not count.
            x = F.avg_pool2d(x, 2, ceil_mode=True)
            levels[level] = x
        return self.pyramid(levels)

    def fused(self, levels: Features) -> torch.Tensor:
        """levels: of the pyramid -> (N, channels, H, W) of the finest level's size."""
        return self.fusion(levels)


def pooled_levels(levels: Mapping[str, Level]) -> list[str]:
    """Names of the levels that are pooled from the top one, "p6" for stride 64 to "p9" for 512.

    ValueError for levels that do not double their stride, a power of two, from one to the next: a BiFPN halves sizes.
    """
    strides = [shape.stride for shape in levels.values()]
    # Each pooling halves a size: two levels of equal stride, or a gap, would not meet.
    if any(stride != strides[0] << index for index, stride in enumerate(strides)) or strides[0] & (strides[0] - 1):
        raise ValueError(
            f"ESegHead needs levels whose stride doubles from one to the next; {', '.join(levels)} have {strides}"
        )
    first = strides[-1].bit_length()
    return [f"p{exponent}" for exponent in range(first, COARSEST_STRIDE.bit_length())]
