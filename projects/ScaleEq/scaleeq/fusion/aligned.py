"""Feature alignment (FaPN, arXiv 2108.07058, section 3.1): an upsampled map is sampled where the reference says.

Follows the authors' released code where the paper is silent: bilinear upsampling; the upsampled map is doubled in the
concatenation that predicts the offsets, and only there; 8 offset groups; the sampled map is the upsampled one; ReLU
before the sum that follows. Offsets and masks start at 0 and 0.5, so at first the map is half a 3x3 convolution.
"""

from __future__ import annotations

import torch
from torch import nn

from scaleeq.layers import ConvNormAct, NormFactory, caffe2_xavier_
from scaleeq.layers.fills import fan_in_uniform_, zero_
from scaleeq.ops import deform_conv3x3, resize
from scaleeq.ops.deform_conv import TAPS, offsets_and_masks

ALIGNED = ("aligned", "aligned_self", "aligned_realtime")  # names of transfers


class Aligned(nn.Module):
    """(x, reference) -> ReLU of a deformable 3x3 convolution of x, upsampled."""

    keeps_constants = False

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int = 0,
        groups: int = 8,
        norm: NormFactory | None = None,
        activation: bool = False,
        from_self: bool = False,
        mode: str = "bilinear",
    ):
        """channels: of x and of the reference; out_channels: of the result, 0 the same; mode: of the upsampling.

        groups: of channels with offsets of their own; norm, activation: after the 1x1 convolution that mixes reference
        and x; from_self: offsets come from the upsampled map itself, without that convolution (an ablation).
        """
        super().__init__()
        if channels % groups:
            raise ValueError(f"aligned transfer: {channels} channels cannot be split into {groups} offset groups")
        self.groups = groups
        out_channels = out_channels or channels
        self.mix: nn.Module | None = None
        if not from_self:
            conv = nn.Conv2d(2 * channels, channels, 1, bias=False)
            caffe2_xavier_(conv)
            after = [*([] if norm is None else [norm(channels)]), *([nn.ReLU(inplace=True)] if activation else [])]
            self.mix = nn.Sequential(conv, *after)
        self.mode = mode
        self.predictor = nn.Conv2d(channels, 3 * groups * len(TAPS), 3, padding=1)
        zero_(self.predictor)
        self.weight = nn.Parameter(torch.empty(out_channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        fan_in_uniform_(self.weight)  # as the authors' deformable layer starts

    def forward(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """x: (N, C, h, w); reference: (N, C, H, W) -> (N, C_out, H, W)."""
        upsampled = resize(x, (reference.shape[-2], reference.shape[-1]), self.mode)
        offset, mask = self.offsets(upsampled, reference)
        return deform_conv3x3(upsampled, offset, mask, self.weight, self.bias).relu().to(upsampled.dtype)

    def offsets(self, upsampled: torch.Tensor, reference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """upsampled, reference: (N, C, H, W) -> offsets (N, 2 * G * 9, H, W), pixels, and masks (N, G * 9, H, W)."""
        # The reference tells where the upsampled map is off.
        seen = upsampled if self.mix is None else self.mix(torch.cat((reference, 2 * upsampled), 1))
        return offsets_and_masks(self.predictor(seen), self.groups)


class AlignedRealtime(nn.Module):
    """Aligned at half the width, brought back by a 1x1 convolution: FaPN's real-time variant.

    Nearest upsampling; norm and ReLU after every convolution.
    """

    keeps_constants = False

    def __init__(self, channels: int, *, groups: int = 8, norm: NormFactory | None = None):
        super().__init__()
        self.aligned = Aligned(
            channels, out_channels=channels // 2, groups=groups, norm=norm, activation=True, mode="nearest"
        )
        self.expand = ConvNormAct(channels // 2, channels, norm=norm)

    def forward(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """x: (N, C, h, w); reference: (N, C, H, W) -> (N, C, H, W)."""
        return self.expand(self.aligned(x, reference))
