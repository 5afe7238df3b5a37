"""What bilinear upsampling does to the variance of a map, in closed form (arXiv 2402.01149, theorem 3.2, and beyond).

The theorem says that bilinear upsampling lowers the variance. How much follows from one number per axis: an output
between two neighbours at the fraction t has the variance 1 - 2 t (1 - t) (1 - rho), where rho is the correlation of
neighbours, so an axis has the factor v = 1 - (1 - rho) m with m = E[2 t (1 - t)] over its outputs. Outputs that are
clamped to the border have t = 0. The derivation is this project's; the operator itself is the test.
"""

from __future__ import annotations

import torch

from scaleeq.choices import one_of

Size = tuple[int, int]


def interpolation_fractions(
    size_in: int, size_out: int, *, align_corners: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """For each output pixel of an axis, its lower neighbour and how far it is from there to the upper one.

    Returns:
        lower: (size_out,), integers; fraction: (size_out,), float64 in [0, 1), 0 where the axis is clamped.
    """
    if size_in < 1 or size_out < 1:
        raise ValueError(f"an axis has at least one pixel; got {size_in} -> {size_out}")
    outputs = torch.arange(size_out, dtype=torch.float64)
    if align_corners:
        positions = outputs * ((size_in - 1) / max(size_out - 1, 1))
    else:
        positions = ((outputs + 0.5) * (size_in / size_out) - 0.5).clamp(min=0)
    # The last pixel has no upper neighbour.
    lower = positions.floor().clamp(max=size_in - 1)
    return lower.long(), torch.where(lower < size_in - 1, positions - lower, 0.0)


def interpolation_loss(size_in: int, size_out: int, *, align_corners: bool = False) -> float:
    """m = E[2 t (1 - t)] of one axis, the variance that independent noise loses there; any sizes, border included."""
    _, fraction = interpolation_fractions(size_in, size_out, align_corners=align_corners)
    return float((2 * fraction * (1 - fraction)).mean())


def upsampled_variance_factor(
    size_in: Size,
    size_out: Size,
    rho: tuple[float, float] = (0.0, 0.0),
    *,
    mode: str = "bilinear",
    align_corners: bool = False,
    diagonal: tuple[float, float] | None = None,
) -> float:
    """Var[resized] / Var[source] for a source whose statistics are everywhere the same; border included.

    Args:
        size_in: (h, w) of the source.
        size_out: (H, W) of the result; an axis that keeps its size has no part in it.
        rho: correlation of vertical and of horizontal neighbours; (0, 0): independent noise.
        mode: "bilinear", or "nearest", which copies pixels and so has the factor 1; ValueError otherwise.
        align_corners: of the interpolation.
        diagonal: correlations of the pixels at (1, 1) and at (1, -1); None: the product of rho, a separable source.
    """
    if mode == "nearest":
        return 1.0
    one_of(mode, ("bilinear", "nearest"), key="the mode of a variance factor")
    loss_y, loss_x = (
        interpolation_loss(n, m, align_corners=align_corners) for n, m in zip(size_in, size_out, strict=True)
    )
    rho_y, rho_x = rho
    # Independent axes multiply; a diagonal pair needs its own correlation.
    across = rho_y * rho_x if diagonal is None else sum(diagonal) / 2
    return (
        (1 - loss_y) * (1 - loss_x)
        + loss_y * (1 - loss_x) * rho_y
        + (1 - loss_y) * loss_x * rho_x
        + loss_y * loss_x * across
    )
