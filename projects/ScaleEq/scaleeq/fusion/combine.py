"""Combines: what makes one map of a fusion's branches, as a running result, never a stack.

Sources: softmax weights are ESeg's final fusion (arXiv 2203.12683), fast-normalized ones are BiFPN's (arXiv 1911.09070,
section 3.3). A weighted combine takes the scale equalizers of its branches as coefficients and one offset: the sum of
a_i * (scale_i * x_i + shift_i), computed without a pass over the maps of its own. A branch that is still to be resized
is multiplied before that, which is the same: a resize is linear, keeps constants and acts on each channel alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.layers import WideBuffers, is_reduced
from scaleeq.ops import resize
from scaleeq.ops.resized_conv import ResizedMap

from .ports import Affine, Combine

COMBINES = ("concat", "sum", "softmax", "fast_normalized")


Summand = torch.Tensor | ResizedMap  # at least one of a sum is a map


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


class Concat(nn.Module):
    """Concatenation over channels."""

    concatenates = True

    def forward(self, branches: Sequence[torch.Tensor]) -> torch.Tensor:
        """branches: n maps (N, C_i, H, W) -> (N, sum of C_i, H, W)."""
        return torch.cat(list(branches), dim=1)


class Sum(nn.Module):
    """Plain sum."""

    concatenates = False

    def weights(self) -> torch.Tensor | None:
        """(n,), one coefficient per branch; None: all 1."""
        return None

    def combined(self, affines: Sequence[Affine]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(coefficients, offset) of the branches once these are applied to them first."""
        return combined_affine(self.weights(), affines)

    def takes_resized(self, scaled: bool) -> bool:
        """Whether forward takes branches before their resize, and that pays; scaled: they are equalized."""
        return type(self).forward is Sum.forward and (scaled or type(self).weights is not Sum.weights)

    def forward(self, branches: Sequence[Summand], affines: Sequence[Affine] | None = None) -> torch.Tensor:
        """branches: n maps (N, C, H, W), or before their resize; affines: applied to each first -> (N, C, H, W)."""
        if affines is not None:
            return weighted_sum(branches, *self.combined(affines))
        weights = self.weights()
        if weights is not None:
            return weighted_sum(branches, weights.unbind())
        size = next((x.shape[-2], x.shape[-1]) for x in branches if isinstance(x, torch.Tensor))
        maps = (x if isinstance(x, torch.Tensor) else resize(x.x, size, x.mode) for x in branches)
        total = next(maps)
        for branch in maps:
            total = total + branch
        return total


class SoftmaxSum(Sum):
    """Sum with the softmax of learnt weights: convex, one scalar per branch."""

    def __init__(self, num_branches: int):
        super().__init__()
        self.logits = nn.Parameter(torch.ones(num_branches))

    def weights(self) -> torch.Tensor:
        return self.logits.softmax(0)


class FastNormalizedSum(Sum):
    """Sum with relu(w) / (1e-4 + sum of relu(w)): BiFPN's cheap stand-in for the softmax."""

    eps = 1e-4

    def __init__(self, num_branches: int):
        super().__init__()
        self.raw_weights = nn.Parameter(torch.ones(num_branches))

    def weights(self) -> torch.Tensor:
        positive = self.raw_weights.relu()
        return positive / (self.eps + positive.sum())


class WeightedSum(WideBuffers):
    """Sum of coefficient_i * branch_i, plus one offset per channel: what a sum of scale equalizers folds into."""

    concatenates = False
    coefficients: torch.Tensor
    offset: torch.Tensor

    def __init__(self, coefficients: torch.Tensor, offset: torch.Tensor):
        """coefficients: (n, C, 1, 1), one row per branch; offset: (C, 1, 1); float32 at least."""
        super().__init__()
        self.register_buffer("coefficients", coefficients)
        self.register_buffer("offset", offset)

    def weights(self) -> torch.Tensor:
        """(n, C, 1, 1)."""
        return self.coefficients

    def combined(self, affines: Sequence[Affine]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(coefficients, offset) of the branches once these are applied to them first."""
        coefficients, offset = combined_affine(self.coefficients, affines)
        return coefficients, offset + self.offset

    def takes_resized(self, scaled: bool) -> bool:
        """Whether forward takes branches before their resize."""
        return type(self).forward is WeightedSum.forward

    def forward(self, branches: Sequence[Summand], affines: Sequence[Affine] | None = None) -> torch.Tensor:
        """branches: n maps (N, C, H, W), or before their resize; affines: applied to each first -> (N, C, H, W)."""
        if affines is not None:
            return weighted_sum(branches, *self.combined(affines))
        return weighted_sum(branches, self.coefficients.unbind(), self.offset)


def combined_affine(weights: torch.Tensor | None, affines: Sequence[Affine]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """(coefficients, offset) of the sum of weight_i * (x_i * scale_i + shift_i).

    weights: (n,) or (n, C, 1, 1); None: all 1.
    """
    factors = [torch.ones((), device=affines[0].scale.device)] * len(affines) if weights is None else weights.unbind()
    offset = sum((w * affine.shift for w, affine in zip(factors, affines, strict=True)), start=torch.zeros(()))
    return [w * affine.scale for w, affine in zip(factors, affines, strict=True)], offset


def make_combine(name: str, num_branches: int = 0) -> Combine:
    """The combine of a config value; num_branches is needed where it learns weights.

    ValueError, with the choices, for a name outside COMBINES.
    """
    one_of(name, COMBINES, key="combine")
    if name == "concat":
        return Concat()
    if name == "sum":
        return Sum()
    if num_branches < 1:
        raise ValueError(f"combine {name!r} learns one weight per branch; there are {num_branches} branches")
    return SoftmaxSum(num_branches) if name == "softmax" else FastNormalizedSum(num_branches)
