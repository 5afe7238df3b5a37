"""Feature pyramid network (arXiv 1612.03144): a top-down chain of two-branch Fusions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..fusion import Branch, EqualizerSpec, Fusion, Sum, make_transfer
from ..layers import ConvNormAct, NormFactory, batch_norm


class FPN(nn.Module):
    """Levels in -> levels out, all of `channels`.

    At every level but the top: merged = lateral(x) + transfer(merged of the level above), output = 3x3 convolution of
    merged.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int,
        *,
        transfer: str = "bilinear",
        norm: NormFactory | None = batch_norm,
        activation: bool = True,
        ready_top: bool = False,
        equalizer: EqualizerSpec | None = None,
    ):
        """
        Args:
            in_channels: level -> channels, from the finest level to the coarsest.
            channels: width of the pyramid.
            transfer: top-down resizing, one of fusion.TRANSFERS.
            norm, activation: of laterals and output convolutions (UPerNet: batch norm and ReLU).
            ready_top: the coarsest level is `channels` wide already (a context module made it) and passes through
                untouched, as in UPerNet.
            equalizer: scale equalizers on the sums.
        """
        super().__init__()
        self.levels = list(in_channels)
        self.top = self.levels[-1]

        def conv(width: int, kernel_size: int) -> ConvNormAct:
            return ConvNormAct(width, channels, kernel_size=kernel_size, norm=norm, activation=activation)

        self.top_lateral = nn.Identity() if ready_top else conv(in_channels[self.top], 1)
        self.merges = nn.ModuleDict()
        for level in self.levels[:-1]:
            branches = {
                "lateral": Branch(channels, lateral=conv(in_channels[level], 1)),
                "top_down": Branch(channels, transfer=make_transfer(transfer)),
            }
            self.merges[level] = Fusion(branches, combine=Sum(), equalizer=equalizer)
        with_output = self.levels[:-1] if ready_top else self.levels
        self.outputs = nn.ModuleDict({level: conv(channels, 3) for level in with_output})

    def forward(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """features: level -> (N, C_i, H_i, W_i) -> level -> (N, channels, H_i, W_i), finest first."""
        merged = {self.top: self.top_lateral(features[self.top])}
        above = self.top
        for level in reversed(self.levels[:-1]):
            merged[level] = self.merges[level]({"lateral": features[level], "top_down": merged[above]})
            above = level
        return {
            level: self.outputs[level](merged[level]) if level in self.outputs else merged[level]
            for level in self.levels
        }
