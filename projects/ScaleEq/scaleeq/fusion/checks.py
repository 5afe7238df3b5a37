"""What a Fusion refuses: branches that it cannot be made of, inputs that are not theirs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .ports import Combine, NamesConsumer


class OtherInputs(ValueError, KeyError):
    """Inputs that are not those of the branches; a KeyError too, as a missing key of a dict is."""

    __str__ = Exception.__str__  # a KeyError's is quoted


def _given(value: object) -> str:
    return "empty" if isinstance(value, Mapping) else f"a {type(value).__name__}"


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


def refuse_branches(branches: object, kind: type, combine: object, mix: object) -> None:
    """ValueError for what is no mapping of names to branches (of class `kind`), or has other widths than it needs."""
    if not isinstance(branches, Mapping) or not branches:
        raise ValueError(f"a Fusion's branches are {_given(branches)}; give name -> Branch(channels), at least one")
    for name, branch in branches.items():
        refuse_name(name)
        if not isinstance(branch, kind):
            raise ValueError(f"branch {name!r} is a {type(branch).__name__}; give Branch(channels, ...)")
    if not isinstance(combine, Combine):
        raise ValueError(f"combine is {combine!r}; give a module such as Concat(), or make_combine('concat')")
    # Together: what the mix reads.
    widths = {name: branch.channels for name, branch in branches.items()}
    stated = ", ".join(f"{name} {width}" for name, width in widths.items())
    conv = mix.consumer if combine.concatenates and isinstance(mix, NamesConsumer) else None
    if conv is not None and conv.in_channels != sum(widths.values()):
        raise ValueError(
            f"the branches' widths are {stated}, {sum(widths.values())} in all, but the convolution that reads them "
            f"has {conv.in_channels} input channels"
        )


def refuse_inputs(widths: Mapping[str, int], combine: Combine, inputs: object) -> None:
    """ValueError for inputs that are not one map, or one for each branch; for a sum of branches of several widths."""
    if not combine.concatenates and len(set(widths.values())) > 1:
        stated = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise ValueError(f"{type(combine).__name__} adds branches of one width; theirs are {stated}")
    if isinstance(inputs, torch.Tensor):
        return
    if isinstance(inputs, Mapping) and inputs.keys() == widths.keys():
        return
    names = ", ".join(widths)
    if not isinstance(inputs, Mapping):
        kind = type(inputs).__name__
        raise ValueError(f"a Fusion's inputs are a {kind}; give one map, or a dict of maps for {names}")
    raise OtherInputs(
        f"a Fusion's inputs are {', '.join(map(str, inputs)) or 'none'}, and its branches are {names}: give a map for "
        "each of these, and nothing else"
    )


def refuse_width(name: str, channels: int, transferred: torch.Tensor) -> None:
    """ValueError for a branch (N, C, H, W) of other than the stated channels."""
    if transferred.shape[1] != channels:
        raise ValueError(
            f"branch {name!r} is a map of {transferred.shape[1]} channels, and Branch({channels}) was stated; its "
            "equalizer and its weights would be another branch's: state the width that it has"
        )
