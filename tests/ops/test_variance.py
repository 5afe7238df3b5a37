"""Closed forms of upsampled variances. Oracle: the operator, torch's interpolation of the basis of an axis."""

from __future__ import annotations

import math

import pytest
import torch

from scaleeq.ops import upsampled_variance_factor
from tests.ops.upsampling import mean_variance, neighbours, operator


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("sizes", [(7, 13), (13, 25), (13, 7), (1, 8), (2, 64), (4, 32), (5, 5), (9, 1)])
def test_one_axis_of_any_size_equals_the_operator(sizes, align_corners):
    size_in, size_out = sizes
    response = operator(size_in, size_out, align_corners)
    for rho in (0.0, 0.4, 0.97):
        factor = upsampled_variance_factor((size_in, 5), (size_out, 5), (rho, 0.3), align_corners=align_corners)
        assert factor == pytest.approx(mean_variance(response, neighbours(size_in, rho)), abs=1e-9)


def test_two_axes_and_a_field_that_is_not_separable_equal_the_operator():
    rows, columns = (5, 13), (4, 16)
    response = torch.kron(operator(*rows), operator(*columns))
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(4.0), indexing="ij")
    dy, dx = (a.flatten()[:, None] - a.flatten() for a in (y.double(), x.double()))
    correlation = torch.exp(-(0.2 * dy**2 + 0.3 * dx**2 + 0.3 * dy * dx))  # positive definite, slanted

    def at(step_y: float, step_x: float) -> float:
        return math.exp(-(0.2 * step_y**2 + 0.3 * step_x**2 + 0.3 * step_y * step_x))

    sizes = (rows[0], columns[0]), (rows[1], columns[1])
    expected = mean_variance(response, correlation)
    factor = upsampled_variance_factor(*sizes, (at(1, 0), at(0, 1)), diagonal=(at(1, 1), at(1, -1)))
    assert factor == pytest.approx(expected, abs=1e-9)
    assert abs(upsampled_variance_factor(*sizes, (at(1, 0), at(0, 1))) - expected) > 1e-3  # not a product of axes


@pytest.mark.parametrize(("bins", "factor"), [(1, 1.0), (2, 0.694), (3, 0.605), (6, 0.521)])
def test_pooled_maps_that_are_upsampled_to_64(bins, factor):
    sizes = (bins, bins), (64, 64)
    assert upsampled_variance_factor(*sizes) == pytest.approx(factor, abs=5e-4)
    aligned = upsampled_variance_factor(*sizes, align_corners=True)
    assert aligned == pytest.approx(0.4515 if bins > 1 else 1.0, abs=5e-5)


@pytest.mark.parametrize(("mode", "factor"), [("nearest", 1.0), ("area", 1.0)])
def test_copies_keep_the_variance(mode, factor):
    response = operator(6, 24, mode=mode)
    assert (
        float(response.square().sum(1).mean()) == factor == upsampled_variance_factor((6, 6), (24, 24), mode="nearest")
    )


def test_refusals():
    with pytest.raises(ValueError, match="'bicubic'; choose one of bilinear, nearest"):
        upsampled_variance_factor((4, 4), (8, 8), mode="bicubic")
    with pytest.raises(ValueError, match="at least one pixel; got 0 -> 4"):
        upsampled_variance_factor((0, 4), (4, 8))
