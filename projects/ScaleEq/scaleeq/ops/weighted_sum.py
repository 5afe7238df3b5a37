"""Sums of maps with coefficients, as a running result, never a stack; some of the maps are still to be resized.

Coefficients take scale equalizers, too: the sum of a_i * (scale_i * x_i + shift_i) is one of (a_i * scale_i) * x_i and
one offset, computed without a pass over the maps of its own. A map that is still to be resized is multiplied before
that, which is the same: a resize is linear, keeps constants and acts on each channel alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .precision import is_reduced
from .resize import resize
from .resized_conv import ResizedMap

Summand = torch.Tensor | ResizedMap  # at least one of a sum is a map


class Affine(NamedTuple):
    """x * scale + shift, each () or (C, 1, 1)."""

    scale: torch.Tensor
    shift: torch.Tensor


def plain_sum(branches: Sequence[Summand]) -> torch.Tensor:
    """branches: n maps (N, C, H, W), or smaller ones that are resized to their size -> (N, C, H, W)."""
    size = next((x.shape[-2], x.shape[-1]) for x in branches if isinstance(x, torch.Tensor))
    maps = (x if isinstance(x, torch.Tensor) else resize(x.x, size, x.mode) for x in branches)
    total = next(maps)
    for branch in maps:
        total = total + branch
    return total


def weighted_sum(
    branches: Sequence[Summand], coefficients: Sequence[torch.Tensor], offset: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum of coefficient_i * branch_i, plus an offset, in the dtype of the branches.

    With an offset, coefficients are those of equalizers, which half precision may not hold: it is summed in float32.

    Args:
        branches: n maps (N, C, H, W), or smaller ones that are resized to their size.
        coefficients: n times () or (C, 1, 1).
        offset: () or (C, 1, 1).

    Returns:
        (N, C, H, W).
    """
    maps = [branch for branch in branches if isinstance(branch, torch.Tensor)]
    if len(maps) < len(branches):
        return _with_small(branches, coefficients, offset, size=(maps[0].shape[-2], maps[0].shape[-1]))
    dtype = maps[0].dtype
    # Scales of equalizers may be out of range in half precision.
    if offset is not None and is_reduced(dtype):
        wide = offset.float().reshape(-1, 1, 1)
        for branch, coefficient in zip(maps, coefficients, strict=True):
            wide = torch.addcmul(wide, branch, coefficient.float().reshape(-1, 1, 1))
        return wide.to(dtype)
    # A running result: one map beside those that come in.
    total = maps[0] * coefficients[0].to(dtype)
    for branch, coefficient in zip(maps[1:], coefficients[1:], strict=True):
        total = total + branch * coefficient.to(dtype)
    return total if offset is None else total + offset.to(dtype)


def _with_small(
    branches: Sequence[Summand],
    coefficients: Sequence[torch.Tensor],
    offset: torch.Tensor | None,
    *,
    size: tuple[int, int],
) -> torch.Tensor:
    """`weighted_sum` of branches of which some are smaller: one pass over the maps of full size for each branch."""
    dtype = branches[0].dtype if isinstance(branches[0], torch.Tensor) else branches[0].x.dtype
    wide = torch.float32 if offset is not None and is_reduced(dtype) else dtype
    pairs = list(zip(branches, coefficients, strict=True))
    # The small ones first: the offset goes into one of them.
    total: torch.Tensor | None = None
    for branch, coefficient in pairs:
        if isinstance(branch, ResizedMap):
            scaled = branch.x.to(wide) * coefficient.to(wide)
            if total is None and offset is not None:
                scaled = scaled + offset.to(wide)
            part = resize(scaled, size, branch.mode)
            total = part if total is None else total + part
    assert total is not None
    for branch, coefficient in pairs:
        if isinstance(branch, torch.Tensor):
            total = torch.addcmul(total, branch.to(total.dtype), coefficient.to(total.dtype))
    return total.to(dtype)


def combined_affine(weights: torch.Tensor | None, affines: Sequence[Affine]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """(coefficients, offset) of the sum of weight_i * (x_i * scale_i + shift_i).

    weights: (n,) or (n, C, 1, 1); None: all 1.
    """
    factors = [torch.ones((), device=affines[0].scale.device)] * len(affines) if weights is None else weights.unbind()
    offset = sum((w * affine.shift for w, affine in zip(factors, affines, strict=True)), start=torch.zeros(()))
    return [w * affine.scale for w, affine in zip(factors, affines, strict=True)], offset
