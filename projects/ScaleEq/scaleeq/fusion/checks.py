"""What a Fusion refuses: branches that it cannot be made of, inputs that are not theirs, scales that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ..layers import per_weight
from .precision import fits, is_reduced

if TYPE_CHECKING:
    from .fusion import Branch, Fusion


class OtherInputs(ValueError, KeyError):
    """Inputs that are not those of the branches; a KeyError too, as a missing key of a dict is."""

    __str__ = Exception.__str__  # a KeyError's is quoted


def refuse_channels(channels: Any) -> None:
    """ValueError for a width that is no number of channels."""
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise ValueError(f"a branch has {channels!r} channels; give a whole number, at least 1")


def refuse_widths(in_channels: Any) -> None:
    """ValueError for what is not level -> channels."""
    if not isinstance(in_channels, Mapping) or not in_channels:
        given = "empty" if isinstance(in_channels, Mapping) else f"a {type(in_channels).__name__}"
        raise ValueError(f"in_channels is {given}; give level -> channels, finest first")
    for level, channels in in_channels.items():
        if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
            raise ValueError(f"level {level!r} has {channels!r} channels; give a whole number, at least 1")


def refuse_name(name: Any) -> None:
    """ValueError for what cannot name a branch, because it names a module and a key of the state dict."""
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict, name):
        raise ValueError(f"a branch cannot be named {name!r}; use letters and digits, such as 'p2'")


def refuse_branches(branches: Any, kind: type, combine: Any, mix: Any) -> None:
    """ValueError for what is no mapping of names to branches (of class `kind`), or has other widths than it needs."""
    if not isinstance(branches, Mapping) or not branches:
        given = "empty" if isinstance(branches, Mapping) else f"a {type(branches).__name__}"
        raise ValueError(f"a Fusion's branches are {given}; give name -> Branch(channels), at least one")
    for name, branch in branches.items():
        refuse_name(name)
        if not isinstance(branch, kind):
            raise ValueError(f"branch {name!r} is a {type(branch).__name__}; give Branch(channels, ...)")
    if not hasattr(combine, "concatenates"):
        raise ValueError(f"combine is {combine!r}; give a module such as Concat(), or make_combine('concat')")
    widths = {name: branch.channels for name, branch in branches.items()}
    stated = ", ".join(f"{name} {width}" for name, width in widths.items())
    conv = getattr(mix, "consumer", None) if combine.concatenates else None
    if conv is not None and conv.in_channels != sum(widths.values()):
        raise ValueError(
            f"the branches' widths are {stated}, {sum(widths.values())} in all, but the convolution that reads them "
            f"has {conv.in_channels} input channels"
        )


def refuse_inputs(fusion: Fusion, inputs: Any) -> None:
    """ValueError for inputs that are not one map, or one for each branch; for a sum of branches of several widths."""
    widths = {name: cast("Branch", branch).channels for name, branch in fusion.branches.items()}
    if not fusion.combine.concatenates and len(set(widths.values())) > 1:
        stated = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise ValueError(f"{type(fusion.combine).__name__} adds branches of one width; theirs are {stated}")
    if isinstance(inputs, torch.Tensor):
        return
    if isinstance(inputs, Mapping) and inputs.keys() == fusion.branches.keys():
        return
    names = ", ".join(fusion.branches)
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


@torch.no_grad()
def refuse_misfit(fusion: Fusion) -> None:
    """ValueError where weights in half precision cannot hold what a branch's scale makes of them."""
    conv = getattr(fusion.mix, "consumer", None) if fusion.combine.concatenates else None
    if conv is None or not is_reduced(conv.weight.dtype):
        return
    weight, kind = conv.weight.double(), str(conv.weight.dtype).removeprefix("torch.")
    start, scales = 0, torch.cat([equalizer.scale() for equalizer in fusion.equalizer_of.values()]).double()
    for name, equalizer in fusion.equalizer_of.items():
        of_branch = torch.zeros_like(scales)
        of_branch[start : start + equalizer.channels] = scales[start : start + equalizer.channels]
        start += equalizer.channels
        if not fits(weight * per_weight(conv, of_branch), conv.weight.dtype):
            raise ValueError(
                f"branch {name!r} has a std of {float(equalizer.std.min()):.3g}, and {kind} weights cannot hold what a "
                "division by it makes of them: use float32 or bfloat16, to fold as well, or implementation 'module', "
                "which keeps the equalizer beside the weights"
            )
