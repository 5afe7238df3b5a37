"""How a Fusion is evaluated: plainly, or with each small branch at its own resolution. One rule, for every model.

Plainly, a branch is resized to the reference's size and concatenated with the others, and the mix's convolution reads
that. Most of what it reads then is interpolated: a map of a quarter of the pixels has a quarter of the numbers. Both
ways compute the same function (see ops/resized_conv.py), equal up to rounding; the rule chooses the second where it is
known to be less work, and where nothing looks at a map that it does not make. In a sum with coefficients a small branch
is multiplied before its resize.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from scaleeq.layers import has_hooks

from .ports import Combine, EndsWithResize, Mix, SumsResized, TakesResized, Transfer

EVALUATIONS = ("", "plain")  # MODEL.FUSION.EVALUATE: by the rule below; never per branch
SHARE = 2  # a branch is small if the reference has this many times its pixels


def small_branches(
    combine: Combine,
    mix: Mix,
    transfers: Mapping[str, Transfer],
    sources: Mapping[str, torch.Tensor],
    reference: torch.Tensor,
    scaled: bool = False,
) -> frozenset[str]:
    """The branches that the mix, or a sum, evaluates before their resize; none: the plain way.

    sources: branch -> (N, C, h, w), after its lateral; reference: (N, C', H, W); scaled: equalizers change branches.
    """
    if combine.concatenates:
        possible = isinstance(mix, TakesResized)
    else:
        possible = isinstance(combine, SumsResized) and combine.takes_resized(scaled)
    if not possible or _watched(combine) or _recorded(reference):
        return frozenset()
    small = [name for name, x in sources.items() if _is_small(transfers[name], x, reference)]
    if small and isinstance(mix, TakesResized) and combine.concatenates:
        small = small if mix.takes_resized([sources[name].shape[1] for name in small]) else []
    return frozenset(small)


def _is_small(transfer: Transfer, x: torch.Tensor, reference: torch.Tensor) -> bool:
    if not isinstance(transfer, EndsWithResize) or _watched(transfer):
        return False
    return SHARE * x.shape[-2] * x.shape[-1] <= reference.shape[-2] * reference.shape[-1]


def _watched(part: object) -> bool:
    return isinstance(part, nn.Module) and has_hooks(part)


def _recorded(x: torch.Tensor) -> bool:
    """Whether the operations themselves are what counts: traced, compiled, exported, or only counted."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or x.device.type == "meta":
        return True
    return any(type(size) is not int for size in x.shape)
