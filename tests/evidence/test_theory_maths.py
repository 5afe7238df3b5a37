"""Closed forms of upsampled variances. Oracle: the operator, torch's interpolation of the basis of an axis."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from evidence.theory_maths import (
    GELU_MEAN,
    GELU_VARIANCE,
    RELU_MEAN,
    RELU_VARIANCE,
    aligned_loss,
    bicubic_noise_factor,
    integer_ratio_loss,
    interpolation_gram,
    interpolation_matrix,
    largest_variance_ratio,
    upsampled_moments,
    weight_gradient_ratio,
)
from scaleeq.ops import upsampled_variance_factor
from scaleeq.ops.variance import interpolation_loss
from tests.ops.upsampling import mean_variance, neighbours, operator

RATIOS = (2, 3, 4, 8, 16)
ALIGNED = pytest.mark.parametrize("align_corners", [False, True])


@ALIGNED
@pytest.mark.parametrize("ratio", [*RATIOS, 5, 7])
@pytest.mark.parametrize("size_in", [3, 4, 7, 16, 33, 64])
def test_closed_forms_equal_the_operator(size_in, ratio, align_corners):
    size_out = size_in * ratio
    closed = aligned_loss(size_in, size_out) if align_corners else integer_ratio_loss(ratio, size_in)
    response = operator(size_in, size_out, align_corners)
    for rho in (0.0, 0.4, 0.97):
        expected = mean_variance(response, neighbours(size_in, rho))
        assert 1 - (1 - rho) * closed == pytest.approx(expected, abs=1e-9)
        factor = upsampled_variance_factor((size_in, 5), (size_out, 5), (rho, 0.3), align_corners=align_corners)
        assert factor == pytest.approx(expected, abs=1e-9)


@ALIGNED
@pytest.mark.parametrize("sizes", [(7, 13), (13, 25), (13, 7), (1, 8), (2, 64), (6, 64), (5, 5), (9, 1)])
def test_any_sizes_equal_the_operator(sizes, align_corners):
    size_in, size_out = sizes
    response = operator(size_in, size_out, align_corners)
    matrix = interpolation_matrix(size_in, size_out, align_corners=align_corners)
    torch.testing.assert_close(matrix, response, rtol=0, atol=1e-12)
    loss = interpolation_loss(size_in, size_out, align_corners=align_corners)
    assert 1 - loss == pytest.approx(float(response.square().sum(1).mean()), abs=1e-9)


@pytest.mark.parametrize(
    ("ratio", "factor"), [(2, 0.390625), (3, 0.4952), (4, 0.430664), (8, 0.440979), (16, 0.443577), (10**6, 4 / 9)]
)
def test_two_axes_away_from_the_border(ratio, factor):
    assert (1 - integer_ratio_loss(ratio)) ** 2 == pytest.approx(factor, abs=1e-5)


@pytest.mark.parametrize("ratio", RATIOS)
def test_bicubic_away_from_the_border_equals_the_operator(ratio):
    response = operator(12, 12 * ratio, mode="bicubic")[3 * ratio : -3 * ratio]
    assert bicubic_noise_factor(ratio) == pytest.approx(float(response.square().sum(1).mean()), abs=1e-12)


def test_units_have_the_moments_of_their_integrals():
    """Oracle: the trapezoidal rule over +-12 standard deviations."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)
    for unit, mean, variance in ((F.relu, RELU_MEAN, RELU_VARIANCE), (F.gelu, GELU_MEAN, GELU_VARIANCE)):
        first, second = (float(torch.trapezoid(unit(x) ** power * density, x)) for power in (1, 2))
        assert mean == pytest.approx(first, abs=1e-8)
        assert variance == pytest.approx(second - first**2, abs=1e-8)
    assert pytest.approx(0.340845, abs=1e-6) == RELU_VARIANCE


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("size_in", [3, 8, 17])
def test_the_gram_matrix_of_an_integer_ratio_is_doubly_stochastic(size_in, ratio):
    """Then the mean is kept exactly, and no map at all gains variance: not only noise in expectation."""
    gram = interpolation_gram(size_in, size_in * ratio)
    response = operator(size_in, size_in * ratio)
    ones = torch.ones(size_in, dtype=torch.float64)
    torch.testing.assert_close(gram, response.T @ response / ratio, rtol=0, atol=1e-12)
    torch.testing.assert_close(gram, gram.T, rtol=0, atol=0)
    assert (gram >= 0).all()
    torch.testing.assert_close(gram.sum(1), ones, rtol=0, atol=1e-12)
    torch.testing.assert_close(response.sum(0), ratio * ones, rtol=0, atol=1e-12)
    assert largest_variance_ratio(size_in, size_in * ratio)[0] < 1


@pytest.mark.parametrize(("sizes", "ratio"), [((16, 32), 1.007), ((16, 128), 1.031), ((32, 64), 1.010)])
def test_with_aligned_corners_a_single_map_gains_variance_and_its_mean_moves(sizes, ratio):
    found, signal = largest_variance_ratio(*sizes, align_corners=True)
    assert found == pytest.approx(ratio, abs=5e-4)
    source = signal.view(1, 1, -1, 1).repeat(1, 1, 1, 4)
    upsampled = F.interpolate(source, size=(sizes[1], 4), mode="bilinear", align_corners=True)
    assert float(upsampled.var(correction=0) / source.var(correction=0)) == pytest.approx(found, rel=1e-12)
    assert found > 1
    plain = F.interpolate(source, size=(sizes[1], 4), mode="bilinear", align_corners=False)
    assert plain.var(correction=0) < source.var(correction=0)
    ramp = torch.linspace(0, 1, sizes[0], dtype=torch.float64).square().view(1, 1, -1, 1).repeat(1, 1, 1, 4)
    means = [
        F.interpolate(ramp, size=(sizes[1], 4), mode="bilinear", align_corners=a).mean() - ramp.mean()
        for a in (False, True)
    ]
    assert abs(means[0]) < 1e-12 < 1e-4 < abs(means[1])


@pytest.mark.parametrize("sizes", [(11, 13), (19, 3)])
def test_the_largest_ratio_is_reached_where_upsampling_moves_the_mean(sizes):
    """In these the mean of the signal that reaches it moves, and must not count as variance."""
    for align_corners in (False, True):
        found, signal = largest_variance_ratio(*sizes, align_corners=align_corners)
        upsampled = operator(*sizes, align_corners) @ signal
        assert float(upsampled.var(correction=0) / signal.var(correction=0)) == pytest.approx(found, rel=1e-9)


@ALIGNED
@pytest.mark.parametrize("size", [(24, 40), (13, 11), (6, 5)])
def test_moments_are_those_of_the_upsampled_map(size, align_corners):
    x = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.4
    upsampled = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
    mean, square = upsampled_moments(x, size, align_corners=align_corners)
    torch.testing.assert_close(mean, upsampled.mean((2, 3)), rtol=0, atol=1e-12)
    torch.testing.assert_close(square, upsampled.square().mean((2, 3)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("block", "ratios"), [(1, (0.63, 0.68, 0.70)), (4, (1.60, 2.46, 2.69)), (8, (1.79, 3.21, 5.12))]
)
def test_where_the_losss_gradient_is_smooth_the_upsampled_branch_has_the_larger_gradient(block, ratios):
    """Oracle: autograd through torch's interpolation and a 1x1 convolution."""
    generator = torch.Generator().manual_seed(0)
    whole = 64

    def gradient(ratio: int) -> float:
        x = torch.randn(200, 1, whole // ratio, whole // ratio, generator=generator)
        delta = torch.randn(200, 1, whole // block, whole // block, generator=generator)
        delta = delta.repeat_interleave(block, 2).repeat_interleave(block, 3)
        weight = torch.ones(200, 1, 1, 1, requires_grad=True)  # one a map
        upsampled = F.interpolate(x, size=(whole, whole), mode="bilinear")
        F.conv2d(upsampled.transpose(0, 1), weight, groups=200).backward(delta.transpose(0, 1))
        return float(weight.grad.square().mean().sqrt())

    for ratio, expected in zip((2, 4, 8), ratios, strict=True):
        predicted = weight_gradient_ratio(whole // ratio, whole, block)
        assert predicted == pytest.approx(expected, abs=0.03)
        assert gradient(ratio) / gradient(1) == pytest.approx(predicted, rel=0.2)


def test_blocks_that_do_not_divide_the_map_are_refused():
    with pytest.raises(ValueError, match="10 pixels do not divide into blocks of 4"):
        weight_gradient_ratio(5, 10, 4)
