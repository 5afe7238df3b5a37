"""Deformable convolution. Oracles: torchvision's operator, and the sampling written out as loops over single pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from scaleeq.ops import deform_conv3x3
from scaleeq.ops.deform_conv import sampled_deform_conv3x3

N, C, OUT, GROUPS, H, W = 2, 6, 4, 3, 5, 7


def arguments(*, reach=2.5, dtype=torch.float64, groups=GROUPS) -> tuple[torch.Tensor, ...]:
    """x, offsets of up to a few pixels (so that many samples lie outside of the map), masks, weight, bias."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    offset = reach * draw(N, 2 * groups * 9, H, W)
    return draw(N, C, H, W), offset, draw(N, groups * 9, H, W).sigmoid(), draw(OUT, C, 3, 3), draw(OUT)


def bilinear(image: np.ndarray, y: float, x: float) -> float:
    """One sample; a neighbour outside of the map counts as zero, and so does a sample a whole pixel or more outside."""
    height, width = image.shape
    if y <= -1 or x <= -1 or y >= height or x >= width:
        return 0.0
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < height and 0 <= column < width:
            total += image[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def looped(x, offset, mask, weight, bias) -> np.ndarray:
    """Offset channels: group-major, taps row-major, (dy, dx); mask channels: group-major, taps row-major."""
    x, offset, mask, weight, bias = (tensor.numpy() for tensor in (x, offset, mask, weight, bias))
    result = np.zeros((N, OUT, H, W)) + bias[None, :, None, None]
    for n, row, column in np.ndindex(N, H, W):
        for channel in range(C):
            group = channel // (C // GROUPS)
            for tap in range(9):
                base = (group * 9 + tap) * 2
                y = row + tap // 3 - 1 + offset[n, base, row, column]
                z = column + tap % 3 - 1 + offset[n, base + 1, row, column]
                sample = bilinear(x[n, channel], y, z) * mask[n, group * 9 + tap, row, column]
                result[n, :, row, column] += weight[:, channel, tap // 3, tap % 3] * sample
    return result


def test_it_equals_loops_over_pixels_and_torchvisions_operator():
    x, offset, mask, weight, bias = given = arguments()
    ours = deform_conv3x3(*given)
    np.testing.assert_allclose(ours.numpy(), looped(*given), rtol=0, atol=1e-12)
    theirs = deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    swapped = offset.view(N, -1, 2, H, W).flip(2).reshape(offset.shape)  # (dx, dy) instead of (dy, dx)
    assert (deform_conv3x3(x, swapped, mask, weight, bias) - ours).abs().max() > 1


@pytest.mark.parametrize("edge", [-1.0, -1 + 1e-9, -0.5, 0.0, H - 1.0, H - 0.5, H - 1e-9, float(H)])
def test_samples_at_and_beyond_the_border(edge):
    """One tap of one pixel is moved onto the border from row 2."""
    x, offset, mask, weight, bias = arguments(reach=0)
    offset[:, 8, 2, 3] = edge - 2  # dy of the centre tap of group 0
    np.testing.assert_allclose(
        deform_conv3x3(x, offset, mask, weight, bias).numpy(), looped(x, offset, mask, weight, bias), atol=1e-7
    )


def test_without_offsets_it_is_a_convolution():
    x, offset, mask, weight, bias = arguments(reach=0, dtype=torch.float32)
    half = deform_conv3x3(x, offset, torch.full_like(mask, 0.5), weight, bias)
    torch.testing.assert_close(half, 0.5 * F.conv2d(x, weight, padding=1) + bias.view(1, -1, 1, 1))
    torch.testing.assert_close(deform_conv3x3(x, offset, torch.ones_like(mask), weight), F.conv2d(x, weight, padding=1))


def test_gradients():
    inputs = [tensor[..., :2, :2] if tensor.dim() == 4 and tensor.shape[-1] == W else tensor for tensor in arguments()]
    inputs = [tensor[:1] if index < 3 else tensor for index, tensor in enumerate(inputs)]
    assert torch.autograd.gradcheck(deform_conv3x3, [tensor.clone().requires_grad_() for tensor in inputs])


def test_half_precisions_are_computed_in_float32():
    exact = deform_conv3x3(*arguments(dtype=torch.float32))
    low = [tensor.bfloat16() for tensor in arguments(dtype=torch.float32)]
    expected = deform_conv3x3(*(tensor.float() for tensor in low))
    assert torch.equal(deform_conv3x3(*low), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(deform_conv3x3(*arguments(dtype=torch.float32)), exact)
        assert torch.equal(deform_conv3x3(*low), expected)


def test_on_the_meta_device_it_keeps_the_size():
    """There, as on CUDA, it is torchvision's operator."""
    result = deform_conv3x3(*(tensor.to("meta") for tensor in arguments()))
    assert result.is_meta and result.shape == (N, OUT, H, W) and result.dtype == torch.float64


@pytest.mark.cuda  # its operator is torchvision's there
def test_on_cuda_it_equals_the_cpu():
    given = arguments()
    on_cuda = [tensor.cuda() for tensor in given]
    torch.testing.assert_close(deform_conv3x3(*on_cuda).cpu(), deform_conv3x3(*given), rtol=0, atol=1e-10)
    torch.testing.assert_close(sampled_deform_conv3x3(*on_cuda), deform_conv3x3(*on_cuda), rtol=0, atol=1e-10)
