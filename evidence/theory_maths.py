"""What is known in closed form of upsampled maps beyond what the package uses (scaleeq.ops.variance); docs/theory.md.

For align_corners False and an integer ratio G = U^T U / ratio is doubly stochastic, so the mean is kept and no single
map gains variance. With align_corners True both are false (`largest_variance_ratio`). The derivations are this
project's; every function has the operator itself as its test.
"""

from __future__ import annotations

import math

import torch

from scaleeq.ops.variance import Size, interpolation_fractions

# Mean and variance of ReLU and GELU of a standard normal variable: what a batch norm and an activation leave.
RELU_MEAN, RELU_VARIANCE = 1 / math.sqrt(2 * math.pi), (math.pi - 1) / (2 * math.pi)
GELU_MEAN = 1 / (2 * math.sqrt(math.pi))
GELU_VARIANCE = 1 / 3 + 1 / (2 * math.pi * math.sqrt(3)) - 1 / (4 * math.pi)


def integer_ratio_loss(ratio: int, size_in: int | None = None) -> float:
    """m in closed form for size_in -> ratio * size_in with align_corners False; None: away from the border.

    Even ratios: 1/3 + 1/(6 s^2); odd ones: (1 - 1/s^2)/3. The border copies s outputs an axis: (N - 1)/N of that.
    """
    loss = (1 - 1 / ratio**2) / 3 if ratio % 2 else 1 / 3 + 1 / (6 * ratio**2)
    return loss if size_in is None else loss * (size_in - 1) / size_in


def aligned_loss(size_in: int, size_out: int) -> float:
    """m in closed form with align_corners True: (M - 1)/M (P^2 - 1)/(3 P^2), P = (M - 1)/gcd(N - 1, M - 1); M > 1."""
    period = (size_out - 1) // math.gcd(size_in - 1, size_out - 1)
    return (size_out - 1) / size_out * (period**2 - 1) / (3 * period**2)


def bicubic_noise_factor(ratio: int) -> float:
    """Per axis, for independent noise away from the border, of torch's bicubic kernel (a = -3/4).

    The squared weights at fraction t are a polynomial of u = t (1 - t).
    """
    a, b = -0.75, 1.25
    _, t = interpolation_fractions(3, 3 * ratio)
    u = (t * (1 - t))[ratio : 2 * ratio]  # the outputs of one inner pixel have every fraction once
    outer = a**2 * u**2 * (1 - 2 * u)
    inner = (1 - a * u) ** 2 - 2 * u * (2 + u - b * (1 - u) + b**2 * u**2)
    return float((outer + inner).mean())


def interpolation_matrix(size_in: int, size_out: int, *, align_corners: bool = False) -> torch.Tensor:
    """(size_out, size_in) float64: U with U @ x = x upsampled along one axis. Its rows sum to 1."""
    lower, fraction = interpolation_fractions(size_in, size_out, align_corners=align_corners)
    rows = torch.arange(size_out)
    matrix = torch.zeros(size_out, size_in, dtype=torch.float64)
    matrix[rows, lower] = 1 - fraction
    matrix[rows, (lower + 1).clamp(max=size_in - 1)] += fraction
    return matrix


def interpolation_gram(size_in: int, size_out: int, *, align_corners: bool = False) -> torch.Tensor:
    """(size_in, size_in) float64: G = U^T U * size_in / size_out; doubly stochastic for integer ratios, not aligned."""
    matrix = interpolation_matrix(size_in, size_out, align_corners=align_corners)
    return matrix.T @ matrix * (size_in / size_out)


def upsampled_moments(x: torch.Tensor, size: Size, *, align_corners: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and mean square that each map would have after bilinear upsampling, without upsampling it.

    Args:
        x: (..., h, w).
        size: (H, W) of the upsampled map.

    Returns:
        mean = c_y^T X c_x / (h w) and square = sum of X * (G_y X G_x) / (h w), both (...), in float64; c are the
        column sums of U over its ratio, G is `interpolation_gram`.
    """
    x = x.double()
    axes = list(zip(x.shape[-2:], size, strict=True))
    column_y, column_x = (
        (interpolation_matrix(n, m, align_corners=align_corners).sum(0) * (n / m)).to(x.device) for n, m in axes
    )
    gram_y, gram_x = (interpolation_gram(n, m, align_corners=align_corners).to(x.device) for n, m in axes)
    pixels = x.shape[-2] * x.shape[-1]
    mean = torch.einsum("y,...yx,x->...", column_y, x, column_x) / pixels
    return mean, (x * (gram_y @ x @ gram_x)).sum((-2, -1)) / pixels


def largest_variance_ratio(size_in: int, size_out: int, *, align_corners: bool = False) -> tuple[float, torch.Tensor]:
    """The supremum of Var[upsampled] / Var[source] over all single signals of one axis, and a signal that reaches it.

    At most 1 for align_corners False and integer ratios; above 1 with align_corners True, whatever the paper's theorem
    is read to say of a single map. size_in > 1.
    """
    matrix = interpolation_matrix(size_in, size_out, align_corners=align_corners)
    matrix = matrix - matrix.mean(0)  # the variance of U x is the mean square of this times x
    centering = torch.eye(size_in, dtype=torch.float64) - 1 / size_in
    form = centering @ matrix.T @ matrix @ centering * (size_in / size_out)
    ratios, signals = torch.linalg.eigh(form)
    return float(ratios[-1]), signals[:, -1]


def weight_gradient_ratio(size_in: int, size_out: int, block: int, *, align_corners: bool = False) -> float:
    """How much larger the weights' gradients of an upsampled branch are than those of one that was not upsampled.

    Both sources are independent noise of one variance, the upsampled one size_in x size_in pixels. The loss's gradient
    by the fused map, size_out x size_out, is constant on block x block pixels and independent from block to block. Root
    mean squares, of a 1x1 convolution. Only for white gradients (block 1) this is the ratio of standard deviations: a
    block averages away the noise of a branch that was not upsampled, but little of one that is smooth already.

    Raises:
        ValueError: size_out is no multiple of block.
    """
    if size_out % block:
        raise ValueError(f"{size_out} pixels do not divide into blocks of {block}")
    matrix = interpolation_matrix(size_in, size_out, align_corners=align_corners)
    averages = matrix.view(size_out // block, block, size_in).mean(1)
    return float(averages.square().sum(1).mean()) * block
