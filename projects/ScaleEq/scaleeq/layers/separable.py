"""Separable convolutions: a depthwise 3x3, then a pointwise 1x1 (MobileNet, arXiv 1704.04861)."""

from __future__ import annotations

import torch
from torch import nn

from .norm import NormFactory, batch_norm


class SeparableConv(nn.Module):
    """[SiLU] -> depthwise 3x3 -> 1x1 -> norm [-> SiLU], without biases where a norm follows.

    BiFPN's nodes activate first (arXiv 1911.09070), ESeg's head last (arXiv 2203.12683).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm: NormFactory | None = batch_norm,
        activation_first: bool = False,
        activation: bool = False,
    ):
        super().__init__()
        self.before = nn.SiLU() if activation_first else nn.Identity()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=norm is None)
        self.norm = nn.Identity() if norm is None else norm(out_channels)
        self.after = nn.SiLU() if activation else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C_in, H, W) -> (N, C_out, H, W)."""
        return self.after(self.norm(self.pointwise(self.depthwise(self.before(x)))))
