"""Combines: what makes one map of a fusion's branches, as a running result, never a stack.

Sources: softmax weights are ESeg's final fusion (arXiv 2203.12683), fast-normalized ones are BiFPN's (arXiv 1911.09070,
section 3.3). A weighted combine takes the scale equalizers of its branches as coefficients and one offset: the sum of
a_i * (scale_i * x_i + shift_i), computed without a pass over the maps of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.layers import WideBuffers, is_reduced

from .ports import Affine, Combine

COMBINES = ("concat", "sum", "softmax", "fast_normalized")


def weighted_sum(
    branches: Sequence[torch.Tensor], coefficients: Sequence[torch.Tensor], offset: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum of coefficient_i * branch_i, plus an offset, in the dtype of the branches.

    With an offset, coefficients are those of equalizers, which half precision may not hold: it is summed in float32.

    Args:
        branches: n maps (N, C, H, W).
        coefficients: n times () or (C, 1, 1).
        offset: () or (C, 1, 1).

    Returns:
        (N, C, H, W).
    """
    dtype = branches[0].dtype
    # Scales of equalizers may be out of range in half precision.
    if offset is not None and is_reduced(dtype):
        wide = offset.float().reshape(-1, 1, 1)
        for branch, coefficient in zip(branches, coefficients, strict=True):
            wide = torch.addcmul(wide, branch, coefficient.float().reshape(-1, 1, 1))
        return wide.to(dtype)
    # A running result: one map beside those that come in.
    total = branches[0] * coefficients[0].to(dtype)
    for branch, coefficient in zip(branches[1:], coefficients[1:], strict=True):
        total = total + branch * coefficient.to(dtype)
    return total if offset is None else total + offset.to(dtype)


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

    def forward(self, branches: Sequence[torch.Tensor], affines: Sequence[Affine] | None = None) -> torch.Tensor:
        """branches: n maps (N, C, H, W); affines: what is applied to each of them first -> (N, C, H, W)."""
        weights = self.weights()
        if affines is not None:
            return weighted_sum(branches, *combined_affine(weights, affines))
        if weights is not None:
            return weighted_sum(branches, weights.unbind())
        total = branches[0]
        for branch in branches[1:]:
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

    def forward(self, branches: Sequence[torch.Tensor], affines: Sequence[Affine] | None = None) -> torch.Tensor:
        """branches: n maps (N, C, H, W); affines: what is applied to each of them first -> (N, C, H, W)."""
        if affines is None:
            return weighted_sum(branches, self.coefficients.unbind(), self.offset)
        coefficients, offset = combined_affine(self.coefficients, affines)
        return weighted_sum(branches, coefficients, offset + self.offset)


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
