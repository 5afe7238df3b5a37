"""Separable convolutions: a depthwise 3x3, then a pointwise 1x1 (MobileNet, arXiv 1704.04861).

SeparableConv has one norm, after the pair (EfficientDet); SeparableBlock has norm and ReLU after each (DeepLabV3+ as
mmsegmentation builds it).
"""

from __future__ import annotations

import torch
from torch import nn

from .conv import ConvNormAct
from .norm import NormFactory, batch_norm, normalizes_channels


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


class SeparableBlock(nn.Module):
    """depthwise 3x3 - norm - ReLU, then 1x1 - norm - ReLU, as one block that can take a scale per input channel."""

    def __init__(
        self, in_channels: int, out_channels: int, *, dilation: int = 1, norm: NormFactory | None = batch_norm
    ):
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels, in_channels, kernel_size=3, dilation=dilation, groups=in_channels, norm=norm
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, norm=norm)

    def forward(self, x: torch.Tensor, input_scale: torch.Tensor | None = None) -> torch.Tensor:
        """x: (N, C_in, H, W); input_scale: (C_in,) -> (N, C_out, H, W)."""
        return self.pointwise(self.depthwise(x, input_scale))

    def fold_input_affine(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        """Make the block compute what it did on `x * scale + shift`, each (C_in,), in place and exactly."""
        self.depthwise.fold_input_affine(scale, shift)

    @property
    def consumer(self) -> nn.Conv2d:
        """The convolution that reads the block's input."""
        return self.depthwise.consumer

    @property
    def norm(self) -> nn.Module:
        """The norm after that convolution."""
        return self.depthwise.norm

    @property
    def scale_invariant(self) -> str:
        """Why a scale on an input channel changes nothing while the block trains; empty where it does change."""
        if not normalizes_channels(self.depthwise.norm):
            return ""
        return "a depthwise convolution keeps channels apart, and the norm after it gives each its own scale back"
