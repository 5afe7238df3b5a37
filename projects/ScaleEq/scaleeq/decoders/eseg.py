"""ESegHead (arXiv 2203.12683): levels up to stride 512, a BiFPN over all of them, one softmax-weighted sum.

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
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scaleeq.engine import ShapeSpec
from scaleeq.layers import NormFactory, SeparableConv, batch_norm
from scaleeq.tasks.losses.segmentation import SegmentationLoss

from .base import Features, Level, SegmentationHead, head_arguments
from .final import FusionOptions
from .pyramid import PyramidOptions, build_pyramid

COARSEST_STRIDE = 512  # pixels; P9
BN_EPS, BN_MOMENTUM = 1e-3, 0.01  # TensorFlow's 0.99 is torch's 0.01


class ESegHead(SegmentationHead):
    """context (pooled levels) -> pyramid (BiFPN) -> fusion (softmax sum, 3x3) -> classifier, at the finest stride."""

    def __init__(
        self,
        *,
        input_shape: Mapping[str, Level],
        channels: int,
        num_classes: int,
        norm: NormFactory | None = batch_norm,
        dropout: float = 0.0,
        loss: SegmentationLoss | None = None,
        pyramid: PyramidOptions | None = None,
        fusion: FusionOptions | None = None,
    ):
        """
        Args:
            input_shape: the levels used, finest first, each of twice the stride of the one before.
            channels: width of the map that is classified.
            norm: of the pyramid and of the separable convolution.
            pyramid: default one cell of a BiFPN, `channels` wide.
            fusion: default a softmax-weighted sum of bilinearly upsampled levels.
        """
        super().__init__(
            input_shape=input_shape, channels=channels, num_classes=num_classes, dropout=dropout, loss=loss
        )
        self.pooled_levels = pooled_levels(input_shape)
        top = input_shape[self.in_features[-1]].channels
        widths = {level: shape.channels for level, shape in input_shape.items()}
        self.pyramid = build_pyramid(
            widths | dict.fromkeys(self.pooled_levels, top),
            pyramid or PyramidOptions(name="bifpn", channels=channels),
            norm=norm,
        )

        def mix(width: int) -> nn.Module:
            after = [] if norm is None else [norm(channels)]
            return nn.Sequential(SeparableConv(width, channels, norm=None), *after, nn.SiLU())

        self.fusion = (fusion or FusionOptions(combine="softmax")).fusion(
            self.pyramid.out_channels, mix=mix, num_classes=num_classes
        )
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eps, module.momentum = BN_EPS, BN_MOMENTUM

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        lacks = {"PYRAMID.NORM": "norms but those of SEM_SEG_HEAD.NORM"}
        return {
            **head_arguments(cfg, input_shape, "ESegHead", lacks=lacks),
            "pyramid": PyramidOptions.from_config(cfg, name="bifpn", channels=cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM),
            "fusion": FusionOptions.from_config(cfg, combine="softmax"),
        }

    def fuse(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) of the finest level's size."""
        levels = {level: features[level] for level in self.in_features}
        x = features[self.in_features[-1]]
        for level in self.pooled_levels:
            # Half the size, rounded up; what lies outside of the map does not count.
            x = F.avg_pool2d(x, 2, stride=2, ceil_mode=True)
            levels[level] = x
        return self.fusion(self.pyramid(levels))


def pooled_levels(input_shape: Mapping[str, Level]) -> list[str]:
    """Names of the levels that are pooled from the top one, "p6" for stride 64 to "p9" for 512.

    ValueError for levels that do not double their stride, a power of two, from one to the next: a BiFPN halves sizes.
    """
    strides = [shape.stride for shape in input_shape.values()]
    if any(stride != strides[0] << index for index, stride in enumerate(strides)) or strides[0] & (strides[0] - 1):
        raise ValueError(
            f"ESegHead needs levels whose stride doubles from one to the next; {', '.join(input_shape)} have {strides}"
        )
    first = strides[-1].bit_length()
    return [f"p{exponent}" for exponent in range(first, COARSEST_STRIDE.bit_length())]
