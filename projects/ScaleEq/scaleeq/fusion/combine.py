"""Combines: what makes one map of a fusion's branches, as a running result, never a stack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

COMBINES = ("concat", "sum")


class Concat(nn.Module):
    """Concatenation over channels."""

    concatenates = True

    def forward(self, branches: Sequence[torch.Tensor]) -> torch.Tensor:
        """branches: n maps (N, C_i, H, W) -> (N, sum of C_i, H, W)."""
        return torch.cat(list(branches), dim=1)


class Sum(nn.Module):
    """Plain sum."""

    concatenates = False

    def forward(self, branches: Sequence[torch.Tensor]) -> torch.Tensor:
        """branches: n maps (N, C, H, W) -> (N, C, H, W)."""
        total = branches[0]
        for branch in branches[1:]:
            total = total + branch
        return total


class WeightedSum(nn.Module):
    """Sum of coefficient_i * branch_i, plus one offset per channel: what a sum of scale equalizers folds into."""

    concatenates = False
    coefficients: torch.Tensor
    offset: torch.Tensor

    def __init__(self, coefficients: torch.Tensor, offset: torch.Tensor):
        """coefficients: (n, C, 1, 1), one row per branch; offset: (C, 1, 1)."""
        super().__init__()
        self.register_buffer("coefficients", coefficients)
        self.register_buffer("offset", offset)

    def forward(self, branches: Sequence[torch.Tensor]) -> torch.Tensor:
        """branches: n maps (N, C, H, W) -> (N, C, H, W)."""
        total = self.offset.to(branches[0].dtype)
        for coefficient, branch in zip(self.coefficients.to(branches[0].dtype), branches, strict=True):
            total = total + coefficient * branch
        return total


def make_combine(name: str) -> nn.Module:
    """The combine of a config value. ValueError, with the choices, for a name outside COMBINES."""
    if name not in COMBINES:
        raise ValueError(f"combine {name!r} is unknown; choose one of {', '.join(COMBINES)}")
    return Concat() if name == "concat" else Sum()
