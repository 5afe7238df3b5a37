"""Combines: what makes one map of a fusion's branches, as a running result, never a stack (see ops/weighted_sum.py).

Sources: softmax weights are ESeg's final fusion (arXiv 2203.12683), fast-normalized ones are BiFPN's (arXiv 1911.09070,
section 3.3). A sum takes the scale equalizers of its branches as coefficients and one offset.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.layers import WideBuffers
from scaleeq.ops.weighted_sum import Affine, Summand, combined_affine, plain_sum, weighted_sum

from .ports import Combine

COMBINES = ("concat", "sum", "softmax", "fast_normalized")


class Concat(nn.Module):
    """Concatenation over channels."""

    concatenates = True

    def forward(self, branches: Sequence[torch.Tensor]) -> torch.Tensor:
        """branches: n maps (N, C_i, H, W) -> (N, sum of C_i, H, W)."""
        return torch.cat(list(branches), dim=1)


class Sum(nn.Module):
    """Plain sum; those below have weights, or an offset."""

    concatenates = False

    def weights(self) -> torch.Tensor | None:
        """(n,) or (n, C, 1, 1), the coefficients of the branches; None: all 1."""
        return None

    def constant(self) -> torch.Tensor | None:
        """(C, 1, 1), the offset; None: none."""
        return None

    def combined(self, affines: Sequence[Affine]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(coefficients, offset) of the branches once these are applied to them first."""
        coefficients, offset = combined_affine(self.weights(), affines)
        constant = self.constant()
        return coefficients, offset if constant is None else offset + constant

    def takes_resized(self, scaled: bool) -> bool:
        """Whether forward takes branches before their resize, and that pays; scaled: they are equalized."""
        return type(self).forward is Sum.forward and (scaled or type(self).weights is not Sum.weights)

    def forward(self, branches: Sequence[Summand], affines: Sequence[Affine] | None = None) -> torch.Tensor:
        """branches: n maps (N, C, H, W), or before their resize; affines: applied to each first -> (N, C, H, W)."""
        if affines is not None:
            return weighted_sum(branches, *self.combined(affines))
        weights = self.weights()
        return plain_sum(branches) if weights is None else weighted_sum(branches, weights.unbind(), self.constant())


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


class WeightedSum(WideBuffers, Sum):
    """Sum of coefficient_i * branch_i, plus one offset per channel: what a sum of scale equalizers folds into."""

    coefficients: torch.Tensor
    offset: torch.Tensor

    def __init__(self, coefficients: torch.Tensor, offset: torch.Tensor):
        """coefficients: (n, C, 1, 1), one row per branch; offset: (C, 1, 1); float32 at least."""
        super().__init__()
        self.register_buffer("coefficients", coefficients)
        self.register_buffer("offset", offset)

    def weights(self) -> torch.Tensor:
        return self.coefficients

    def constant(self) -> torch.Tensor:
        return self.offset


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
