"""Transfers that only change the size. Oracles: TensorFlow's "same" arithmetic written out, torch's interpolation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scaleeq.fusion import DOWN_TRANSFERS, TRANSFERS, Gated, Keep, Pool, Progressive, Resize, make_transfer
from scaleeq.fusion.transfers import Deconv
from scaleeq.layers import batch_norm

SIZES = [(1, 1), (1, 2), (2, 3), (4, 4), (5, 7), (8, 6), (9, 1)]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def tensorflow_pool(image: np.ndarray, kind: str) -> np.ndarray:
    """3x3 windows of stride 2 with padding "SAME": the total padding of an axis is max(0, (out - 1) * 2 + 3 - size),
    the smaller half before the map; padding is left out of maximum and mean."""
    outs = [math.ceil(size / 2) for size in image.shape]
    befores = [max(0, (out - 1) * 2 + 3 - size) // 2 for out, size in zip(outs, image.shape, strict=True)]
    result = np.zeros(outs)
    for row, column in np.ndindex(*outs):
        starts = (2 * row - befores[0], 2 * column - befores[1])
        window = image[tuple(slice(max(0, start), start + 3) for start in starts)]
        result[row, column] = window.max() if kind == "max" else window.mean()
    return result


@pytest.mark.parametrize(("kind", "size"), itertools.product(DOWN_TRANSFERS, SIZES))
def test_pooling_is_tensorflows(kind, size):
    x = draw(2, 3, *size) - 5  # a zero in the padding would be seen
    halved = [(n + 1) // 2 for n in size]
    pooled = Pool(kind)(x, torch.empty(2, 1, *halved)).numpy()
    for n, channel in np.ndindex(2, 3):
        np.testing.assert_allclose(pooled[n, channel], tensorflow_pool(x[n, channel].numpy(), kind), rtol=1e-14)


@pytest.mark.parametrize("name", ["none", "bilinear", "nearest", *DOWN_TRANSFERS])
def test_an_equalizer_may_act_before_a_transfer_that_keeps_constants(name):
    transfer, x = make_transfer(name), draw(1, 2, 6, 5)
    size = {"none": (6, 5), "max": (3, 3), "avg": (3, 3)}.get(name, (13, 9))
    reference = torch.empty(1, 2, *size)
    assert transfer.keeps_constants
    torch.testing.assert_close(transfer((x - 3) / 0.7, reference), (transfer(x, reference) - 3) / 0.7)


@pytest.mark.parametrize(
    "transfer",
    [Deconv(2), Progressive(2, 2, steps=1), make_transfer("gated", 2), make_transfer("aligned", 8)],
    ids=lambda transfer: type(transfer).__name__,
)
def test_one_with_weights_does_not_keep_constants(transfer):
    assert not transfer.keeps_constants


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_resizing_is_torchs_at_the_exact_size(mode):
    x = draw(2, 3, 3, 4)
    options = {} if mode == "nearest" else {"align_corners": False}
    assert torch.equal(Resize(mode)(x, torch.empty(2, 1, 7, 9)), F.interpolate(x, (7, 9), mode=mode, **options))


@pytest.mark.parametrize("size", [(6, 8), (5, 8), (5, 7)])
def test_a_deconvolution_doubles_and_an_odd_reference_takes_its_upper_left(size):
    deconv = Deconv(3).double()
    x = draw(1, 3, 3, 4)
    full = F.conv_transpose2d(x, deconv.conv.weight, deconv.conv.bias, stride=2, padding=1)
    assert full.shape[-2:] == (6, 8)
    torch.testing.assert_close(deconv(x, torch.empty(1, 3, *size)), full[..., : size[0], : size[1]])
    assert deconv.conv.weight.numel() == 16 * 3 * 3


def test_a_deconvolution_refuses_another_ratio():
    with pytest.raises(ValueError, match=r"'deconv' doubles a size: \(3, 4\) does not become \(12, 16\)"):
        Deconv(3)(torch.zeros(1, 3, 3, 4), torch.empty(1, 3, 12, 16))


def test_progressive_upsampling_is_convolution_and_doubling_in_turns():
    progressive = Progressive(3, 4, steps=2, norm=batch_norm).double().eval()
    x = draw(1, 3, 3, 4)
    expected = x
    for conv, size in zip(progressive.convs, [(6, 8), (11, 15)], strict=True):
        expected = F.conv2d(expected, conv.conv.weight, padding=1) / math.sqrt(1 + conv.norm.eps)
        expected = F.interpolate(expected.relu(), size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(progressive(x, torch.empty(1, 9, 11, 15)), expected)
    same = Progressive(3, 4, steps=0).double()
    assert len(same.convs) == 1 and same(x, x).shape == (1, 4, 3, 4)


def test_a_gate_acts_at_the_source_resolution():
    gated = make_transfer("gated", 3).double()
    x = draw(1, 3, 3, 4)
    gate = torch.sigmoid((x * gated.gate.map[0].weight).sum(1, keepdim=True))
    expected = F.interpolate(x * gate, (5, 9), mode="bilinear", align_corners=False)
    torch.testing.assert_close(gated(x, torch.empty(1, 3, 5, 9)), expected)
    assert isinstance(make_transfer("supervised_gated", 3, num_classes=4), Gated)


def test_no_transfer_refuses_another_size():
    x = draw(1, 3, 3, 4)
    assert Keep()(x, torch.empty(1, 7, 3, 4)) is x
    with pytest.raises(ValueError, match=r"size \(3, 4\) meets a reference of size \(6, 8\).*'bilinear'"):
        Keep()(x, torch.empty(1, 3, 6, 8))


def test_pooling_refuses_a_reference_of_another_size():
    with pytest.raises(ValueError, match=r"halves \(5, 7\) to \(3, 4\); the reference has \(2, 3\)"):
        Pool()(draw(1, 3, 5, 7), torch.empty(1, 3, 2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_transfer("cubic"), f"is 'cubic'; choose one of .*{', '.join(TRANSFERS + DOWN_TRANSFERS)}"),
        (lambda: make_transfer("deconv"), "needs the channels of its branch"),
        (lambda: make_transfer("aligned", 12), "12 channels cannot be split into 8 offset groups"),
        (lambda: make_transfer("supervised_gated", 4), "num_classes is 0"),
        (lambda: Resize("cubic"), "is 'cubic'; choose one of bilinear"),
        (lambda: Pool("min"), "'min'; choose one of max, avg"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", [*TRANSFERS, *DOWN_TRANSFERS])
def test_every_name_makes_a_transfer_to_the_references_size(name):
    transfer = make_transfer(name, 16, norm=batch_norm, num_classes=3)
    x = draw(2, 16, 3, 4).float().requires_grad_()
    size = {"none": (3, 4), "max": (2, 2), "avg": (2, 2)}.get(name, (5, 7))
    y = transfer(x, torch.randn(2, 16, *size))
    assert y.shape == (2, 16, *size)
    y.square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
