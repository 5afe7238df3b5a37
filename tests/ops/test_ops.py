"""resize and equalize_branch. Oracles: closed forms; OpenCV; the interpolation's own weights."""

from __future__ import annotations

import cv2
import pytest
import torch

from scaleeq.ops import equalize_branch, resize
from scaleeq.ops.resize import RESIZE_MODES


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("size", [(7, 11), (10, 6), (40, 24), (3, 2)])
def test_resize_commutes_with_an_affine_map(mode, size):
    x = torch.randn(2, 3, 10, 6, dtype=torch.float64)
    torch.testing.assert_close(resize(2 * x - 5, size, mode), 2 * resize(x, size, mode) - 5, rtol=0, atol=1e-12)


def test_resize_of_two_pixels_is_the_half_pixel_interpolation():
    x = torch.tensor([[[[0.0, 1.0]]]])
    torch.testing.assert_close(resize(x, (1, 4)), torch.tensor([[[[0.0, 0.25, 0.75, 1.0]]]]))


def test_with_aligned_corners_the_first_and_the_last_pixel_stay_and_the_others_are_evenly_between():
    x = torch.tensor([[[[0.0, 3.0]]]])
    torch.testing.assert_close(resize(x, (1, 4), "bilinear_corners"), torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]]))


def test_bicubic_is_opencvs():
    x = torch.randn(1, 1, 9, 12)
    expected = torch.from_numpy(cv2.resize(x[0, 0].numpy(), (30, 27), interpolation=cv2.INTER_CUBIC))
    torch.testing.assert_close(resize(x, (27, 30), "bicubic")[0, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("ratio", "factor"), [(2, 0.390625), (3, 0.4952), (4, 0.430664), (8, 0.440979)])
def test_bilinear_upsampling_lowers_the_variance_of_noise_as_the_closed_form_says(ratio, factor):
    """Interior of independent noise: 2/3 - 1/(6 s^2) per axis for even ratios s, 2/3 + 1/(3 s^2) for odd ones."""
    per_axis = 2 / 3 + (1 / (3 * ratio**2) if ratio % 2 else -1 / (6 * ratio**2))
    assert per_axis**2 == pytest.approx(factor, rel=1e-4)
    x = torch.randn(8, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    y = resize(x, (64 * ratio, 64 * ratio))[..., ratio:-ratio, ratio:-ratio]
    assert float(y.var() / x.var()) == pytest.approx(factor, rel=0.02)


def test_resize_to_the_same_size_is_the_map_itself():
    x = torch.randn(1, 1, 5, 4)
    assert resize(x, (5, 4)) is x


def test_unknown_mode_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"is 'cubic'; choose one of bilinear, nearest"):
        resize(torch.zeros(1, 1, 2, 2), (4, 4), "cubic")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equalize_branch_keeps_the_dtype(dtype):
    x = torch.arange(12, dtype=dtype).view(1, 3, 2, 2)
    scalar = equalize_branch(x, torch.tensor(2.0), torch.tensor(4.0))
    channel = equalize_branch(x, torch.full((3, 1, 1), 2.0), torch.full((3, 1, 1), 4.0))
    assert scalar.dtype == channel.dtype == dtype
    expected = (torch.arange(12.0).view(1, 3, 2, 2) - 2) / 4
    torch.testing.assert_close(scalar.float(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(channel.float(), expected, rtol=1e-2, atol=1e-2)
