"""BiFPN (EfficientDet, arXiv 1911.09070) over any levels, as ESeg (arXiv 2203.12683) uses it on P2 to P9.

A cell is two chains of Fusions: top-down, then bottom-up with the top-down result as a third branch. Follows the
authors' released code: SiLU before each separable convolution, batch norm and no activation after it, max pooling
downwards, nearest upsampling. One lateral per level, shared by its nodes, where EfficientDet has one per edge: that is
what ESeg's published sizes say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from scaleeq.fusion import Branch, Fusion, Keep, Pool, Transfer, make_combine
from scaleeq.layers import ConvNormAct, NormFactory, SeparableConv, batch_norm
from scaleeq.layers.refusals import refuse_widths

from .chain import Chain
from .plain import NEAREST


class BiFPNCell(nn.Module):
    """One cell: levels in -> levels out, all of one width."""

    def __init__(
        self,
        levels: list[str],
        channels: int,
        *,
        combine: str = "fast_normalized",
        transfer: Callable[[], Transfer] = NEAREST,
        down_transfer: str = "max",
        norm: NormFactory | None = batch_norm,
    ):
        """levels: finest first; the others as in BiFPN."""
        super().__init__()
        self.levels = levels

        def node(**transfers: Transfer) -> Fusion:
            branches = {name: Branch(channels, transfer=module) for name, module in transfers.items()}
            mix = SeparableConv(channels, channels, norm=norm, activation_first=True)
            return Fusion(branches, combine=make_combine(combine, len(branches)), mix=mix)

        finest, top = levels[0], levels[-1]
        # The top level has nothing above it and the finest one nothing below it: each is left out of one path.
        down = {level: node(input=Keep(), top_down=transfer()) for level in reversed(levels[:-1])}
        up = {level: node(input=Keep(), top_down=Keep(), bottom_up=Pool(down_transfer)) for level in levels[1:-1]}
        up[top] = node(input=Keep(), bottom_up=Pool(down_transfer))
        self.top_down = Chain(down, carried="top_down")
        self.bottom_up = Chain(up, carried="bottom_up")
        self.finest, self.top = finest, top

    def forward(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """features: level -> (N, channels, H_i, W_i), finest first -> the same levels and sizes."""
        inputs = {level: {"input": features[level]} for level in self.levels}
        refined = self.top_down(features[self.top], inputs)
        # Upwards, each level in between sees its own input and what came down to it.
        for level in self.levels[1:-1]:
            inputs[level]["top_down"] = refined[level]
        return {self.finest: refined[self.finest], **self.bottom_up(refined[self.finest], inputs)}


class BiFPN(nn.Module):
    """A lateral per level (1x1 convolution and norm, where its width differs), then cells in a row."""

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int,
        *,
        repeats: int = 1,
        combine: str = "fast_normalized",
        transfer: Callable[[], Transfer] = NEAREST,
        down_transfer: str = "max",
        norm: NormFactory | None = batch_norm,
    ):
        """
        Args:
            in_channels: level -> channels, finest first; each level half the size of the one before, rounded up.
            channels: width of the pyramid.
            repeats: number of cells. ValueError below 1, or for fewer than two levels.
            combine: "fast_normalized", "softmax" or "sum".
            transfer: makes the transfer of a top-down branch.
            down_transfer: of the bottom-up branches, "max" or "avg".
        """
        super().__init__()
        refuse_widths(in_channels)
        if repeats < 1 or len(in_channels) < 2:
            raise ValueError(f"a BiFPN has at least one cell and two levels, not {repeats} and {list(in_channels)}")
        self.out_channels = dict.fromkeys(in_channels, channels)
        # To one width, then the cells.
        self.laterals = nn.ModuleDict(
            {
                level: ConvNormAct(width, channels, norm=norm, activation=False)
                for level, width in in_channels.items()
                if width != channels
            }
        )
        self.cells = nn.ModuleList(
            BiFPNCell(
                list(in_channels),
                channels,
                combine=combine,
                transfer=transfer,
                down_transfer=down_transfer,
                norm=norm,
            )
            for _ in range(repeats)
        )

    def forward(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """features: level -> (N, C_i, H_i, W_i) -> level -> (N, channels, H_i, W_i)."""
        maps = {level: self.laterals[level](x) if level in self.laterals else x for level, x in features.items()}
        for cell in self.cells:
            maps = cell(maps)
        return maps
