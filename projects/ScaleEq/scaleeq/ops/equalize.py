"""The scale equalizer as a function (arXiv 2402.01149, section 4)."""

from __future__ import annotations

import torch


def equalize_branch(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(x - mean) / std, in the dtype of `x`.

    Args:
        x: (N, C, H, W), one branch of a fusion.
        mean: () one number for the branch, or (C, 1, 1) one per channel.
        std: like `mean`, positive.

    Returns:
        (N, C, H, W). Half precision is computed in float32, where 1 / std and a small std are in range.
    """
    # 1 / std may be out of range in half precision
    if x.dtype.itemsize < torch.float32.itemsize:
        mean, std = (one.float() if one.dim() else one.float().view(1, 1, 1) for one in (mean, std))
        return ((x - mean) / std).to(x.dtype)
    # A number of no dimension does not change the type of what it meets.
    if mean.dim():
        mean, std = mean.to(x.dtype), std.to(x.dtype)
    return (x - mean) / std
