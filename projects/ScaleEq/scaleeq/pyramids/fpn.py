"""Feature pyramid network (arXiv 1612.03144): a top-down chain of two-branch Fusions.

What differs between FPN, FaPN and their ablations are the laterals, the transfers and which levels have an output
convolution: `FPN` takes them as they are, `fpn` builds the common ones, fapn.py FaPN's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from ..fusion import Branch, EqualizerSpec, Fusion, Resize, make_combine, make_lateral
from ..fusion.laterals import caffe2_xavier_
from ..layers import ConvNormAct, NormFactory, batch_norm
from .chain import Chain

NEAREST = partial(Resize, "nearest")


class FPN(nn.Module):
    """Levels in -> levels out, all of one width.

    At every level but the top: merged = mix(combine(lateral(x), transfer(merged of the level above))), output = output
    convolution of merged.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int,
        *,
        top: nn.Module | None = None,
        lateral: Callable[[int], nn.Module],
        transfer: Callable[[], nn.Module] = Resize,
        combine: str = "sum",
        mix: Callable[[], nn.Module] | None = None,
        outputs: Mapping[str, nn.Module],
        equalizer: EqualizerSpec | None = None,
    ):
        """
        Args:
            in_channels: level -> channels, from the finest level to the coarsest.
            channels: width of the pyramid.
            top: lateral of the coarsest level; None: it is `channels` wide already (a context module made it).
            lateral: channels of a level -> its lateral.
            transfer: makes the transfer of one level's top-down branch.
            combine: of a lateral with its top-down branch, "sum", "softmax" or "fast_normalized".
            mix: makes what consumes one level's sum; None: nothing. The level below continues behind it.
            outputs: level -> output convolution, for those that have one.
            equalizer: scale equalizers on the sums.
        """
        super().__init__()
        self.levels = list(in_channels)
        self.top = self.levels[-1]
        self.out_channels = dict.fromkeys(self.levels, channels)
        self.top_lateral = nn.Identity() if top is None else top
        self.merges = Chain(
            {
                level: Fusion(
                    {
                        "lateral": Branch(channels, lateral=lateral(in_channels[level])),
                        "top_down": Branch(channels, transfer=transfer()),
                    },
                    combine=make_combine(combine, 2),
                    mix=None if mix is None else mix(),
                    equalizer=equalizer,
                )
                for level in reversed(self.levels[:-1])
            },
            carried="top_down",
        )
        self.outputs = nn.ModuleDict(outputs)

    def forward(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """features: level -> (N, C_i, H_i, W_i) -> level -> (N, channels, H_i, W_i), finest first."""
        top = self.top_lateral(features[self.top])
        merged = self.merges(top, {level: {"lateral": features[level]} for level in self.levels[:-1]})
        merged[self.top] = top
        return {
            level: self.outputs[level](merged[level]) if level in self.outputs else merged[level]
            for level in self.levels
        }


def fpn(
    in_channels: Mapping[str, int],
    channels: int,
    *,
    lateral: str = "conv",
    transfer: Callable[[], nn.Module] = Resize,
    combine: str = "sum",
    norm: NormFactory | None = batch_norm,
    activation: bool = True,
    ready_top: bool = False,
    output_convs: Mapping[str, int] | None = None,
    equalizer: EqualizerSpec | None = None,
) -> FPN:
    """A pyramid of 1x1 laterals and 3x3 outputs.

    Args:
        lateral: one of fusion.LATERALS, of every level but the coarsest, whose lateral is a convolution.
        transfer, combine: as in FPN.
        norm, activation: of all convolutions (UPerNet: batch norm and ReLU; FPN: neither).
        ready_top: the coarsest level passes through untouched, as in UPerNet.
        output_convs: level -> number of 3x3 convolutions in a row on its output; default one each, without a ready top.

    Without an activation, convolutions start with Caffe2's Xavier fill (FPN), else with Kaiming's (UPerNet).
    """

    def conv(width: int, kernel_size: int = 1) -> nn.Module:
        block = ConvNormAct(width, channels, kernel_size=kernel_size, norm=norm, activation=activation)
        if not activation:
            caffe2_xavier_(block.conv)
        return block

    def make_level_lateral(width: int) -> nn.Module:
        return conv(width) if lateral == "conv" else make_lateral(lateral, width, channels)

    levels = list(in_channels)
    numbers = dict.fromkeys(levels[: len(levels) - ready_top], 1) if output_convs is None else output_convs
    outputs: dict[str, nn.Module] = {}
    for level, number in numbers.items():
        convs = [conv(channels, 3) for _ in range(number)]
        if convs:
            outputs[level] = convs[0] if number == 1 else nn.Sequential(*convs)
    return FPN(
        in_channels,
        channels,
        top=None if ready_top else conv(in_channels[levels[-1]]),
        lateral=make_level_lateral,
        transfer=transfer,
        combine=combine,
        outputs=outputs,
        equalizer=equalizer,
    )


def smoothed_fpn(
    in_channels: Mapping[str, int],
    channels: int,
    *,
    lateral: str = "conv",
    transfer: Callable[[], nn.Module] = NEAREST,
    combine: str = "sum",
    norm: NormFactory | None = None,
    ready_top: bool = False,
    equalizer: EqualizerSpec | None = None,
) -> FPN:
    """The pyramid of MaskFormer's pixel decoder (arXiv 2107.06278): the recursion goes on behind the 3x3 convolutions.

    3x3 convolutions with norm and ReLU on the top level and on every sum; laterals with norm and without ReLU.
    """

    def smooth(width: int) -> nn.Module:
        return ConvNormAct(width, channels, kernel_size=3, norm=norm)

    return FPN(
        in_channels,
        channels,
        top=None if ready_top else smooth(list(in_channels.values())[-1]),
        lateral=lambda width: make_lateral(lateral, width, channels, norm=norm),
        transfer=transfer,
        combine=combine,
        mix=lambda: smooth(channels),
        outputs={},
        equalizer=equalizer,
    )
