"""ConvNormAct, norms and exact folding. Oracles: torch's own layers on explicitly scaled, shifted or padded inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaleeq.layers import (
    BatchNorm2d,
    ConvNormAct,
    OffsetConv2d,
    conv_with_input_scale,
    fold_input_affine,
    norm_factory,
)
from scaleeq.ops import resize
from scaleeq.ops.resized_conv import ResizedMap


def double_conv(*args, **kwargs) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(*args, **kwargs).double()


CONVS = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "5x5": {"kernel_size": 5, "padding": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "unpadded": {"kernel_size": 3},
    "same": {"kernel_size": 3, "padding": "same"},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 6},
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("geometry", CONVS)
def test_fold_is_exact_everywhere_borders_included(geometry, bias):
    conv = double_conv(6, 12, bias=bias, **CONVS[geometry])
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    scale = torch.rand(6, dtype=torch.float64) + 0.5
    shift = torch.randn(6, dtype=torch.float64) * 3
    expected = conv(x * scale[:, None, None] + shift[:, None, None])
    folded = fold_input_affine(conv, scale, shift)
    torch.testing.assert_close(folded(x), expected, rtol=0, atol=1e-12)
    needs_border = geometry not in ("1x1", "unpadded")
    assert isinstance(folded, OffsetConv2d) == needs_border
    assert set(folded.state_dict()) <= {"weight", "bias", "offset_weight"}


def test_naive_fold_is_wrong_at_the_border_by_the_taps_that_fall_outside():
    """A bias for the shift errs by the sum over out-of-bounds taps of weight * shift: the reason for OffsetConv2d."""
    conv = double_conv(4, 3, kernel_size=3, padding=1, bias=False)
    shift = torch.randn(4, dtype=torch.float64)
    x = torch.randn(1, 4, 32, 32, dtype=torch.float64)
    exact = conv(x + shift[:, None, None])
    taps = torch.einsum("ocyx,c->oyx", conv.weight, shift)
    naive = conv(x) + taps.sum((1, 2))[:, None, None]
    wrong = (naive - exact).abs().amax((0, 1)) > 1e-9
    assert wrong.double().mean() == pytest.approx(0.121, abs=1e-3)
    torch.testing.assert_close((naive - exact)[0, :, 0, 5], taps[:, 0].sum(1), rtol=0, atol=1e-12)


def test_folding_no_shift_leaves_a_plain_convolution_without_bias():
    folded = fold_input_affine(double_conv(2, 2, 3, padding=1, bias=False), torch.full((2,), 2.0), torch.zeros(2))
    assert type(folded) is nn.Conv2d
    assert folded.bias is None


@pytest.mark.parametrize("geometry", ["1x1", "3x3"])
def test_a_shift_of_one_channel_of_one_group_is_folded(geometry):
    conv = double_conv(4, 4, groups=2, bias=False, **CONVS[geometry])
    x, shift = torch.randn(1, 4, 5, 6, dtype=torch.float64), torch.tensor([3.0, 0.0, 0.0, 0.0])
    folded = fold_input_affine(conv, torch.ones(4), shift)
    torch.testing.assert_close(folded(x), conv(x + shift.double()[:, None, None]), rtol=0, atol=1e-12)


def test_other_padding_is_refused():
    with pytest.raises(ValueError, match="'reflect' is not supported"):
        fold_input_affine(double_conv(2, 2, 3, padding=1, padding_mode="reflect"), torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_input_scale_equals_scaling_the_input(groups):
    conv = double_conv(6, 12, 3, padding=1, groups=groups)
    x, scale = torch.randn(2, 6, 5, 4, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    expected = conv(x * scale[:, None, None])
    torch.testing.assert_close(conv_with_input_scale(conv, x, scale), expected, rtol=0, atol=1e-12)
    assert torch.equal(conv_with_input_scale(conv, x, None), conv(x))


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_conv_norm_act_keeps_the_size_and_starts_as_kaiming_fan_out(kernel_size):
    torch.manual_seed(0)
    block = ConvNormAct(32, 64, kernel_size=kernel_size)
    assert block(torch.randn(2, 32, 9, 7)).shape == (2, 64, 9, 7)
    assert block.conv.bias is None
    expected = (2 / (64 * kernel_size**2)) ** 0.5
    assert float(block.conv.weight.detach().std()) == pytest.approx(expected, rel=0.05)


def test_conv_norm_act_is_torchs_layers_in_a_row():
    torch.manual_seed(0)
    block = ConvNormAct(6, 4, kernel_size=3, dilation=2, groups=2, norm=None).double()
    nn.init.normal_(block.conv.bias)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    assert block.conv.weight.shape == (4, 3, 3, 3) and isinstance(block.norm, nn.Identity)
    expected = nn.functional.conv2d(x, block.conv.weight, block.conv.bias, padding=2, dilation=2, groups=2)
    torch.testing.assert_close(block(x), expected.relu(), rtol=0, atol=1e-12)
    linear = ConvNormAct(6, 4, activation=False).double().eval()
    torch.testing.assert_close(linear(x), linear.norm(nn.functional.conv2d(x, linear.conv.weight)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("folded", [False, True])
def test_small_maps_are_read_as_if_they_had_been_resized(folded):
    """With scales of their channels, and after an affine map was folded in, which the border of zeros sees."""
    torch.manual_seed(0)
    block = ConvNormAct(10, 3, kernel_size=3, norm=None, activation=False).double()
    if folded:
        block.fold_input_affine(torch.rand(10) + 0.5, torch.randn(10) * 3)
        assert isinstance(block.conv, OffsetConv2d)
    full, small = torch.randn(2, 4, 12, 16, dtype=torch.float64), torch.randn(2, 6, 3, 4, dtype=torch.float64)
    scale = torch.rand(6, dtype=torch.float64) + 0.5
    maps = [ResizedMap(full), ResizedMap(small, "bilinear")]
    joined = torch.cat([full, resize(small, (12, 16))], 1)
    found = block.forward_resized(maps, (12, 16), [None, scale])
    expected = block(joined, torch.cat([torch.ones(4, dtype=torch.float64), scale]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("norm", [None, norm_factory("BN")], ids=["bias", "no bias"])
def test_scales_and_shifts_of_resized_maps_are_those_of_their_concatenation(kernel_size, norm):
    """The padding stays zero: no shift is seen there. Without a map of full size, too."""
    torch.manual_seed(0)
    block = ConvNormAct(10, 3, kernel_size=kernel_size, norm=norm, activation=False).double().eval()
    if block.conv.bias is not None:
        nn.init.normal_(block.conv.bias)
    scale, shift = (torch.randn(10, dtype=torch.float64) for _ in range(2))
    for size in ((12, 16), (6, 8)):
        maps = [
            ResizedMap(torch.randn(2, 4, *size, dtype=torch.float64), "bilinear"),
            ResizedMap(torch.randn(2, 6, 3, 4, dtype=torch.float64), "nearest"),
        ]
        joined = torch.cat([resize(each.x, (12, 16), each.mode) for each in maps], 1)
        expected = block(joined * scale.view(-1, 1, 1) + shift.view(-1, 1, 1))
        found = block.forward_resized(maps, (12, 16), scale.split([4, 6]), shift.split([4, 6]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        found = block.forward_resized(maps, (12, 16), (), [None, shift[4:]])
        joined[:, 4:] += shift[4:].view(-1, 1, 1)
        torch.testing.assert_close(found, block(joined), rtol=0, atol=1e-12)


def test_batch_norm_equals_torch_and_trains_on_one_value_per_channel():
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(ours(x), theirs(x))
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    one = torch.randn(1, 3, 1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        theirs(one)
    ours(one).sum().backward()
    expected = (one - ours.running_mean[:, None, None]) / (ours.running_var[:, None, None] + ours.eps).sqrt()
    torch.testing.assert_close(ours(one), expected)
    assert ours.weight.grad is not None and one.grad.abs().min() > 0
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())


def test_batch_norm_of_one_image_takes_its_statistics_where_it_has_several_pixels():
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    for size in [(1, 2), (2, 1), (5, 4)]:
        x = 3 * torch.randn(1, 3, *size) + 2
        assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    one = torch.randn(2, 3, 1, 1)  # two images of one pixel each
    assert torch.equal(ours(one), theirs(one))


def test_norms_by_name():
    x = torch.randn(2, 64, 3, 5)
    assert norm_factory("") is None
    torch.testing.assert_close(norm_factory("GN")(64)(x), nn.functional.group_norm(x, 32))
    pixel = norm_factory("LN")(64)(x)[0, :, 1, 2]
    torch.testing.assert_close(pixel, nn.functional.layer_norm(x[0, :, 1, 2], (64,)))
    with pytest.raises(ValueError, match="'FrozenBN' is unknown"):
        norm_factory("FrozenBN")
    with pytest.raises(ValueError, match="32 groups, which do not divide 48"):
        norm_factory("GN")(48)
