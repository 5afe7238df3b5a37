"""What is refused of maps by name: widths, names, modules and inputs that cannot be theirs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class OtherInputs(ValueError, KeyError):
    """Inputs that are not those of the branches; a KeyError too, as a missing key of a dict is."""

    __str__ = Exception.__str__  # a KeyError's is quoted


def refuse_channels(channels: object, owner: str = "a branch") -> None:
    """ValueError for a width that is no number of channels. owner: whose width it is."""
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise ValueError(f"{owner} has {channels!r} channels; give a whole number, at least 1")


def refuse_widths(in_channels: object) -> None:
    """ValueError for what is not level -> channels."""
    if not isinstance(in_channels, Mapping) or not in_channels:
        raise ValueError(f"in_channels is {_given(in_channels)}; give level -> channels, finest first")
    for level, channels in in_channels.items():
        refuse_channels(channels, f"level {level!r}")


def refuse_name(name: object) -> None:
    """ValueError for what cannot name a branch, because it names a module and a key of the state dict."""
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name):
        raise ValueError(f"a branch cannot be named {name!r}; use letters and digits, such as 'p2'")


def refuse_branches(branches: object, kind: type) -> None:
    """ValueError for what is no mapping of names to branches, of class `kind`."""
    if not isinstance(branches, Mapping) or not branches:
        raise ValueError(f"a Fusion's branches are {_given(branches)}; give name -> Branch(channels), at least one")
    for name, branch in branches.items():
        refuse_name(name)
        if not isinstance(branch, kind):
            raise ValueError(f"branch {name!r} is a {type(branch).__name__}; give Branch(channels, ...)")


def refuse_reader(widths: Mapping[str, int], conv: nn.Conv2d | None) -> None:
    """ValueError for a convolution that reads a concatenation of other widths than these; None: there is none."""
    if conv is not None and conv.in_channels != sum(widths.values()):
        raise ValueError(
            f"the branches' widths are {_stated(widths)}, {sum(widths.values())} in all, but the convolution that "
            f"reads them has {conv.in_channels} input channels"
        )


def refuse_inputs(widths: Mapping[str, int], inputs: object, *, adds: str = "") -> None:
    """ValueError for inputs that are not one map, or one for each branch, and for a sum of branches of several widths.

    adds: what adds the branches; empty if nothing does.
    """
    if adds and len(set(widths.values())) > 1:
        raise ValueError(f"{adds} adds branches of one width; theirs are {_stated(widths)}")
    if isinstance(inputs, torch.Tensor):
        return
    names = ", ".join(widths)
    if not isinstance(inputs, Mapping):
        kind = type(inputs).__name__
        raise ValueError(f"a Fusion's inputs are a {kind}; give one map, or a dict of maps for {names}")
    if inputs.keys() != widths.keys():
        raise OtherInputs(
            f"a Fusion's inputs are {', '.join(map(str, inputs)) or 'none'}, and its branches are {names}: give a map "
            "for each of these, and nothing else"
        )


def refuse_width(name: str, channels: int, transferred: torch.Tensor) -> None:
    """ValueError for a branch (N, C, H, W) of other than the stated channels."""
    if transferred.shape[1] != channels:
        raise ValueError(
            f"branch {name!r} is a map of {transferred.shape[1]} channels, and Branch({channels}) was stated; its "
            "equalizer and its weights would be another branch's: state the width that it has"
        )


def _given(value: object) -> str:
    return "empty" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _stated(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {width}" for name, width in widths.items())
