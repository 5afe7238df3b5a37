"""SemanticFPN: the semantic branch of Panoptic FPN (arXiv 1901.02446, section 3.1) on any pyramid.

Each level of the pyramid goes through 3x3 convolutions with x2 upsampling in between to the finest level's size; the
sum of all is the map. The sum is the decoder's Fusion, the convolutions are its transfers.

The branches equal Detectron2's SemSegFPNHead, which reads the levels of a pyramid that is in its backbone, as this
one does with MODEL.PYRAMID.NAME "none". Weights map one to one (level "p4" as an example, k from 0):

    fusion.branches.p4.transfer.convs.<k>.conv   p4.<2 k>         (without an upsampling, at the finest level: p2.0)
    fusion.branches.p4.transfer.convs.<k>.norm   p4.<2 k>.norm
    classifier, which the task adds              predictor

Deviations: the last upsampling is to the finest level's exact size, so odd sizes work; the classifier starts as those
of the other decoders; MODEL.SEM_SEG_HEAD.DROPOUT is 0.1 by default, Detectron2's head has none.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from scaleeq.fusion import Branch, Fusion, Progressive, make_combine
from scaleeq.layers import Level, NormFactory, norm_factory

from .base import Features, PyramidDecoder, widths_of
from .pyramid import PyramidOptions, build_pyramid

PYRAMID_CHANNELS = 256  # of Panoptic FPN
GROUP_NORM = norm_factory("GN")


class SemanticFPN(PyramidDecoder):
    """pyramid (FPN) -> fusion (sum of progressive branches), at the finest stride."""

    def __init__(
        self,
        levels: Mapping[str, Level],
        channels: int = 128,
        *,
        pyramid: PyramidOptions | None = None,
        combine: str = "sum",
        norm: NormFactory | None = GROUP_NORM,
        pyramid_norm: NormFactory | None = None,
    ):
        """
        Args:
            levels: finest first, each of twice the stride of the one before.
            channels: width of the branches.
            pyramid: default an FPN of 256 channels.
            combine: of the final Fusion, "sum", "softmax" or "fast_normalized".
            norm: of the branches.
            pyramid_norm: of the pyramid; None, as in Detectron2.
        """
        super().__init__(levels, channels)
        if combine == "concat":
            raise ValueError("MODEL.FUSION.COMBINE is 'concat', but SemanticFPNHead classifies the sum of its branches")
        pyramid = pyramid or PyramidOptions(name="fpn", channels=PYRAMID_CHANNELS)
        self.pyramid = build_pyramid(widths_of(levels), pyramid, norm=pyramid_norm)
        # One convolution a doubling, so a coarse level is convolved more often than a fine one.
        steps = dict(zip(levels, doublings(levels), strict=True))
        branches = {
            level: Branch(channels, transfer=Progressive(width, channels, steps=steps[level], norm=norm))
            for level, width in self.pyramid.out_channels.items()
        }
        self.fusion = Fusion(branches, combine=make_combine(combine, len(branches)))

    def pyramid_levels(self, features: Features) -> dict[str, torch.Tensor]:
        """features: level -> (N, C_level, H_level, W_level) -> level -> map of the pyramid."""
        return self.pyramid({level: features[level] for level in self.in_features})

    def fused(self, levels: Features) -> torch.Tensor:
        """levels: of the pyramid -> (N, channels, H, W) of the finest level's size."""
        return self.fusion(levels)


def doublings(levels: Mapping[str, Level]) -> list[int]:
    """How often each level is doubled to reach the finest one. ValueError for a stride that no doubling reaches."""
    finest = next(iter(levels.values())).stride
    steps = []
    for level, shape in levels.items():
        ratio = shape.stride // finest
        # A power of two has one bit.
        if ratio * finest != shape.stride or ratio & (ratio - 1):
            raise ValueError(f"level {level!r} has stride {shape.stride}, which is not {finest} doubled a few times")
        steps.append(ratio.bit_length() - 1)
    return steps
