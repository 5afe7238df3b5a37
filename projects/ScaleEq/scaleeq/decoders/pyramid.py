"""The pyramid that MODEL.PYRAMID describes: FPN, FaPN with its ablations and relatives, BiFPN, or none.

docs/pyramids.md lists the keys of the published variants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.fusion import COMBINES, DOWN_TRANSFERS, LATERALS, TRANSFERS, Transfer, make_transfer
from scaleeq.layers import NormFactory
from scaleeq.layers.refusals import refuse_widths

from .bifpn import BiFPN
from .fapn import fapn, fapn_realtime
from .fpn import FPN
from .plain import fpn, smoothed_fpn

PYRAMIDS = ("none", "fpn", "fapn", "bifpn")
PYRAMID_COMBINES = tuple(name for name in COMBINES if name != "concat")
PYRAMID_TRANSFERS = tuple(name for name in TRANSFERS if name not in ("none", "supervised_gated"))
RECURSIONS = ("merged", "smoothed")
OF_FPN = ("output_convs", "out_features", "recursion")  # options of "fpn" and "fapn" alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class PyramidOptions:
    """The keys of MODEL.PYRAMID, in lower case; config/keys.py says what each means. Empty: as `name` implies.

    ValueError for an unknown value, and for one that the pyramid of this name has no use for.
    """

    name: str
    channels: int
    lateral: str = ""
    transfer: str = ""
    down_transfer: str = ""
    combine: str = ""
    output_convs: tuple[int, ...] = ()
    out_features: tuple[str, ...] = ()
    recursion: str = ""
    repeats: int = 0
    gate: str = "paper"

    def __post_init__(self) -> None:
        for key, choices in (
            ("name", PYRAMIDS),
            ("lateral", (*LATERALS, "")),
            ("transfer", (*PYRAMID_TRANSFERS, "")),
            ("down_transfer", (*DOWN_TRANSFERS, "")),
            ("combine", (*PYRAMID_COMBINES, "")),
            ("recursion", (*RECURSIONS, "")),
        ):
            one_of(getattr(self, key), choices, key=f"MODEL.PYRAMID.{key.upper()}")
        for key in ("output_convs", "out_features"):
            if isinstance(value := getattr(self, key), str):
                raise ValueError(f"MODEL.PYRAMID.{key.upper()} is the string {value!r}; give a list")
        if self.channels < 1 or self.repeats < 0 or any(number < 0 for number in self.output_convs):
            raise ValueError(f"MODEL.PYRAMID: CHANNELS, REPEATS and OUTPUT_CONVS count something; got {self}")
        self._refuse_combinations()

    def _refuse_combinations(self) -> None:
        # Keys that this pyramid has no use for.
        unused = {
            "none": ("lateral", "transfer", "down_transfer", "combine", *OF_FPN, "repeats"),
            "bifpn": ("lateral", *OF_FPN),
        }.get(self.name, ("down_transfer", "repeats"))
        reason = {
            "none": "there is no pyramid",
            "bifpn": "a BiFPN has one 1x1 lateral per level, which its nodes share, and its nodes are its outputs",
        }.get(self.name, "it has one path, top-down")
        for key in unused:
            if value := getattr(self, key):
                raise ValueError(
                    f"MODEL.PYRAMID.{key.upper()} is {value!r}, which NAME {self.name!r} cannot use: {reason}"
                )
        # Keys that exclude each other.
        if self.recursion == "smoothed" and self.output_convs:
            raise ValueError(
                "MODEL.PYRAMID.OUTPUT_CONVS and RECURSION 'smoothed' exclude each other: "
                "every level has its one 3x3 convolution inside the recursion"
            )
        if self.name == "fapn" and self.transfer == "aligned_realtime":
            for key in ("lateral", "output_convs", "recursion"):
                if value := getattr(self, key):
                    raise ValueError(
                        f"MODEL.PYRAMID.{key.upper()} is {value!r}, but real-time FaPN (TRANSFER 'aligned_realtime') "
                        "has plain laterals and no output convolutions; use NAME 'fpn' to combine them freely"
                    )


class NoPyramid(nn.Module):
    """The levels as they are."""

    def __init__(self, in_channels: Mapping[str, int]):
        super().__init__()
        self.out_channels = dict(in_channels)

    def forward(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """features: level -> (N, C_i, H_i, W_i) -> the same."""
        return dict(features)


def build_pyramid(
    in_channels: Mapping[str, int],
    options: PyramidOptions,
    *,
    norm: NormFactory | None,
    activation: bool = False,
    ready_top: bool = False,
) -> FPN | BiFPN | NoPyramid:
    """The pyramid of `options`, level -> map to level -> map; `out_channels` says how wide each level leaves it.

    Args:
        in_channels: level -> channels, finest first.
        norm: of its convolutions.
        activation: "fpn": a ReLU after each convolution and bilinear upsampling (UPerNet), or neither and nearest
            upsampling (FPN). The other pyramids have their own.
        ready_top: the coarsest level has been made by a context module, `options.channels` wide: no lateral and, by
            default, no output convolution.

    Raises:
        ValueError: OUTPUT_CONVS or OUT_FEATURES that do not match the levels; a top that is not as wide as announced.
    """
    refuse_widths(in_channels)
    levels, channels = list(in_channels), options.channels
    # No pyramid, or one whose top is ready.
    if options.name == "none":
        return NoPyramid(in_channels)
    if ready_top and in_channels[levels[-1]] != channels:
        raise ValueError(f"the context is {in_channels[levels[-1]]} channels wide, the pyramid {channels}")

    def transfer(implied: str) -> Callable[[], Transfer]:
        return lambda: make_transfer(options.transfer or implied, channels, norm=norm, gate=options.gate)

    # By its name.
    if options.name == "bifpn":
        return BiFPN(
            in_channels,
            channels,
            repeats=options.repeats or 1,
            combine=options.combine or "fast_normalized",
            transfer=transfer("nearest"),
            down_transfer=options.down_transfer or "max",
            norm=norm,
        )
    pyramid = _build_fpn(in_channels, options, transfer, activation, norm=norm, ready_top=ready_top)
    # Levels that nobody reads need no output convolution.
    if options.out_features:
        if unknown := [level for level in options.out_features if level not in levels]:
            raise ValueError(f"MODEL.PYRAMID.OUT_FEATURES has {unknown}; the levels are {', '.join(levels)}")
        if levels[0] not in options.out_features:
            raise ValueError(
                f"MODEL.PYRAMID.OUT_FEATURES is {list(options.out_features)}; it needs {levels[0]!r}, the finest, "
                "whose stride the logits have"
            )
        pyramid.keep_outputs(options.out_features)
    return pyramid


def _build_fpn(
    in_channels: Mapping[str, int],
    options: PyramidOptions,
    transfer: Callable[[str], Callable[[], Transfer]],
    activation: bool,
    **shared: Any,
) -> FPN:
    """transfer: the one that a pyramid implies -> maker of the one that is used; shared: arguments of every FPN."""
    levels, channels = list(in_channels), options.channels
    shared["combine"] = options.combine or "sum"
    if options.name == "fapn" and options.transfer == "aligned_realtime":
        return fapn_realtime(in_channels, channels, **shared)
    shared["transfer"] = transfer("aligned" if options.name == "fapn" else "bilinear" if activation else "nearest")
    if options.recursion == "smoothed":
        return smoothed_fpn(in_channels, channels, lateral=options.lateral or "conv", **shared)
    shared["output_convs"] = _output_convs(options, levels)
    if options.name == "fapn":
        return fapn(in_channels, channels, lateral=options.lateral or "select", **shared)
    return fpn(in_channels, channels, lateral=options.lateral or "conv", activation=activation, **shared)


def _output_convs(options: PyramidOptions, levels: list[str]) -> dict[str, int] | None:
    if not options.output_convs:
        return None
    if len(options.output_convs) != len(levels):
        raise ValueError(
            f"MODEL.PYRAMID.OUTPUT_CONVS is {list(options.output_convs)}: one number per level is needed, for {levels}"
        )
    return dict(zip(levels, options.output_convs, strict=True))
