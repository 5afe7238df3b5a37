"""Feature pyramids of plain convolutions: FPN's and UPerNet's, and that of MaskFormer's pixel decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from scaleeq.fusion import Resize, Transfer, make_lateral
from scaleeq.layers import ConvNormAct, NormFactory, batch_norm, caffe2_xavier_
from scaleeq.layers.refusals import refuse_widths

from .fpn import FPN

NEAREST = partial(Resize, "nearest")


def fpn(
    in_channels: Mapping[str, int],
    channels: int,
    *,
    lateral: str = "conv",
    transfer: Callable[[], Transfer] = Resize,
    combine: str = "sum",
    norm: NormFactory | None = batch_norm,
    activation: bool = True,
    ready_top: bool = False,
    output_convs: Mapping[str, int] | None = None,
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

    refuse_widths(in_channels)

    def conv(width: int, kernel_size: int = 1) -> nn.Module:
        block = ConvNormAct(width, channels, kernel_size=kernel_size, norm=norm, activation=activation)
        # The Kaiming fill of ConvNormAct is meant for what a ReLU follows.
        if not activation:
            caffe2_xavier_(block.conv)
        return block

    def make_level_lateral(width: int) -> nn.Module:
        return conv(width) if lateral == "conv" else make_lateral(lateral, width, channels)

    levels = list(in_channels)
    # A ready top was made by a context and is smooth already.
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
    )


def smoothed_fpn(
    in_channels: Mapping[str, int],
    channels: int,
    *,
    lateral: str = "conv",
    transfer: Callable[[], Transfer] = NEAREST,
    combine: str = "sum",
    norm: NormFactory | None = None,
    ready_top: bool = False,
) -> FPN:
    """The pyramid of MaskFormer's pixel decoder (arXiv 2107.06278): the recursion goes on after the 3x3 convolutions.

    3x3 convolutions with norm and ReLU on the top level and on every sum; laterals with norm and without ReLU.
    """

    refuse_widths(in_channels)

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
    )
