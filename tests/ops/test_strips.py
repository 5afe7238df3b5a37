"""A resize in strips and its transpose. Oracle: F.interpolate and its gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scaleeq.ops import strips
from scaleeq.ops.strips import StripResize, axis_blocks, precise_products, window

SIZES = [((16, 8), (64, 32)), ((13, 9), (50, 37)), ((7, 11), (7, 33)), ((33, 20), (12, 9)), ((1, 5), (6, 300))]


@pytest.mark.parametrize("num_rows", [1, 5, 1000])
@pytest.mark.parametrize(("source", "size"), SIZES)
def test_strips_are_the_resize_and_its_gradient(source, size, num_rows, monkeypatch):
    x = torch.randn(2, 3, *source, dtype=torch.float64, requires_grad=True)
    monkeypatch.setitem(strips.STRIP_BYTES, "cpu", num_rows * 3 * size[1] * 8)
    resize = StripResize.of(x, size)
    assert len(resize.rows) == -(-size[0] // min(num_rows, size[0]))
    expected = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    slope = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(expected, x, slope)
    found = torch.zeros_like(x[0])
    for rows in resize.rows:
        strip = resize.strip(x[0].detach(), rows)
        torch.testing.assert_close(strip, expected[0, :, rows.outputs].detach(), rtol=0, atol=1e-13)
        resize.add_transposed(slope[0, :, rows.outputs].contiguous(), rows, found)
    torch.testing.assert_close(found, gradient[0], rtol=0, atol=1e-12)


def test_float32_rounds_coordinates_as_interpolate_does():
    x = torch.randn(1, 1, 8, 701)
    resize = StripResize.of(x, (8, 1024))
    found = torch.cat([resize.strip(x[0], rows) for rows in resize.rows], dim=1)
    expected = F.interpolate(x, size=(8, 1024), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(128, 512), (13, 50), (50, 13), (1, 9), (683, 512)])
def test_windows_hold_all_that_is_read(num_inputs, num_outputs):
    for length in (1, 7, num_outputs):
        blocks = axis_blocks(num_inputs, num_outputs, length, dtype=torch.float32, device=torch.device("cpu"))
        assert [block.outputs.start for block in blocks] == list(range(0, num_outputs, length))
        for block in blocks:
            assert block.weights.sum(1) == pytest.approx(torch.ones(len(block.weights)), abs=1e-5)
            read = window(block.outputs.start, block.outputs.stop, num_inputs, num_outputs)
            assert read.stop - read.start <= len(block.weights) * num_inputs / num_outputs + 5


def test_constants_made_in_inference_mode_serve_a_training():
    x = torch.randn(1, 2, 5, 5)
    with torch.inference_mode():
        StripResize.of(x, (19, 23))
    x.requires_grad_()
    resize = StripResize.of(x, (19, 23))
    sum(resize.strip(x[0], rows).sum() for rows in resize.rows[:0])
    assert not any(block.weights.is_inference() for block in (*resize.rows, *resize.columns))


def test_products_are_precise_within_and_as_before_afterwards():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), precise_products("cpu"):
            assert torch.get_float32_matmul_precision() == "highest"
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
