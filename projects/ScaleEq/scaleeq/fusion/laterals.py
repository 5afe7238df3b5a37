"""Laterals: what brings a branch to the fusion's channels, before its size changes.

Sources: the 1x1 convolution of feature pyramids (arXiv 1612.03144); FaPN's feature selection module and its ablation
with an ordinary squeeze-excitation (arXiv 2108.07058, section 3.2).
"""

from __future__ import annotations

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.layers import ConvNormAct, NormFactory, caffe2_xavier_

LATERALS = ("conv", "select", "squeeze_excite")


class Select(nn.Module):
    """Channel selection: y = x + x * u with u = sigmoid(conv(mean of x)), then a 1x1 convolution.

    No norm and no bias anywhere. With `residual` False, y = x * u: a squeeze-excitation without a bottleneck.
    """

    def __init__(self, in_channels: int, out_channels: int, *, residual: bool = True):
        super().__init__()
        self.residual = residual
        self.importance = nn.Conv2d(in_channels, in_channels, 1, bias=False)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        caffe2_xavier_(self.importance, self.conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H, W)."""
        # How much a channel matters is seen from its mean over the image.
        selected = x * self.importance(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.conv(x + selected if self.residual else selected)


def make_lateral(
    name: str, in_channels: int, out_channels: int, *, norm: NormFactory | None = None, activation: bool = False
) -> nn.Module:
    """The lateral of a config value; norm and activation are those of "conv".

    ValueError, with the choices, for a name outside LATERALS.
    """
    one_of(name, LATERALS, key="lateral")
    if name == "conv":
        return ConvNormAct(in_channels, out_channels, norm=norm, activation=activation)
    return Select(in_channels, out_channels, residual=name == "select")
