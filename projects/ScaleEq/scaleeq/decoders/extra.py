"""Levels that are coarser than a pyramid's: what detectors add for large objects.

    "max_pool"          one, by max pooling of the pyramid's coarsest output (FPN, arXiv 1612.03144)
    "convs_from_res5"   two strided 3x3 convolutions in a row, of the backbone's coarsest level, with a ReLU before the
                        second (RetinaNet, arXiv 1708.02002, as Detectron2 has it)
    "convs_from_p5"     the same of the pyramid's coarsest output (torchvision's RetinaNet and FCOS, PanopticFCN)

The two kinds of convolutions differ by 4 M parameters on a ResNet-50: name the kind beside every number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.choices import one_of
from scaleeq.layers import caffe2_xavier_

EXTRA_LEVELS = ("max_pool", "convs_from_res5", "convs_from_p5")


class PooledLevel(nn.Module):
    """One more level, without parameters."""

    num_levels = 1

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x: (N, C, H, W) -> [(N, C, ceil(H / 2), ceil(W / 2))]."""
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


class ConvLevels(nn.Module):
    """Two more levels, whose convolutions start with Caffe2's Xavier fill."""

    num_levels = 2

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        caffe2_xavier_(self.first, self.second)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x: (N, C_in, H, W) -> two maps (N, C, ...), each half as large as the one before, rounded up."""
        first = self.first(x)
        return [first, self.second(first.relu())]


def make_extra(name: str, *, backbone_width: int, channels: int) -> PooledLevel | ConvLevels:
    """The extra levels of a config value.

    backbone_width: channels of the backbone's coarsest level; channels: of the pyramid.

    ValueError, with the choices, for a name outside EXTRA_LEVELS.
    """
    one_of(name, EXTRA_LEVELS, key="MODEL.PYRAMID.EXTRA_LEVELS")
    if name == "max_pool":
        return PooledLevel()
    return ConvLevels(backbone_width if name == "convs_from_res5" else channels, channels)
