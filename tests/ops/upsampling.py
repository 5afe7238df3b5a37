"""Upsampling as a matrix, and what it does to a random signal: the oracle of every closed form."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def operator(size_in: int, size_out: int, align_corners=False, mode="bilinear") -> torch.Tensor:
    """(size_out, size_in): what torch makes of each unit vector along the rows; the columns keep their size."""
    basis = torch.eye(size_in, dtype=torch.float64).view(1, size_in, size_in, 1).repeat(1, 1, 1, 3)
    corners = {"align_corners": align_corners} if mode.startswith("bi") else {}
    return F.interpolate(basis, size=(size_out, 3), mode=mode, **corners)[0, :, :, 1].T


def mean_variance(response: torch.Tensor, correlation: torch.Tensor) -> float:
    """Of response @ x over all outputs, for x with that correlation matrix."""
    return float((response @ correlation * response).sum(1).mean())


def neighbours(size: int, rho: float) -> torch.Tensor:
    """The correlation matrix of an AR(1) signal."""
    index = torch.arange(size, dtype=torch.float64)
    return rho ** (index[:, None] - index).abs()
