"""Separable convolutions. Oracles: torch's own layers in a row; one form against the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaleeq.layers import SeparableBlock, SeparableConv, batch_norm, norm_factory
from scaleeq.layers.norm import ChannelLayerNorm, normalizes_channels


def make_block(**options) -> SeparableBlock:
    torch.manual_seed(0)
    block = SeparableBlock(6, 10, **options).double()
    for norm in (block.depthwise.norm, block.pointwise.norm):
        for tensor in (getattr(norm, "weight", None), getattr(norm, "bias", None)):
            if tensor is not None:
                nn.init.uniform_(tensor, 0.5, 1.5)
    return block


def make_input() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 6, 9, 7, dtype=torch.float64)


@pytest.mark.parametrize("dilation", [1, 3])
def test_the_block_is_depthwise_norm_relu_pointwise_norm_relu(dilation):
    block, x = make_block(dilation=dilation).eval(), make_input()
    depthwise, pointwise = block.depthwise, block.pointwise
    assert (depthwise.conv.groups, depthwise.conv.kernel_size, depthwise.conv.bias) == (6, (3, 3), None)
    inner = nn.functional.conv2d(x, depthwise.conv.weight, padding=dilation, dilation=dilation, groups=6)
    inner = depthwise.norm(inner).relu()
    expected = pointwise.norm(nn.functional.conv2d(inner, pointwise.conv.weight)).relu()
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)
    assert block(x).shape == (2, 10, 9, 7)
    assert expected.min() == 0 < expected.max()
    without = make_block(norm=None)
    assert isinstance(without.depthwise.norm, nn.Identity) and isinstance(without.pointwise.norm, nn.Identity)


@pytest.mark.parametrize("training", [False, True])
def test_input_scale_and_fold_equal_the_affine_map_of_the_input(training):
    block, x = make_block().train(training), make_input()
    scale, shift = torch.rand(6, dtype=torch.float64) + 0.5, torch.randn(6, dtype=torch.float64)
    torch.testing.assert_close(block(x, scale), block(x * scale[:, None, None]), rtol=0, atol=1e-12)
    expected = block(x * scale[:, None, None] + shift[:, None, None])
    assert not torch.allclose(expected, block(x))
    assert block.consumer is block.depthwise.conv
    block.fold_input_affine(scale, shift)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        (batch_norm(6), True),
        (nn.SyncBatchNorm(6), True),
        (nn.InstanceNorm2d(6), True),
        (nn.GroupNorm(6, 6), True),
        (nn.GroupNorm(3, 6), False),
        (ChannelLayerNorm(6), False),
        (nn.Identity(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_norms_give_every_channel_its_own_scale_back(norm, expected):
    assert normalizes_channels(norm) == expected
    if isinstance(norm, nn.SyncBatchNorm):
        return  # does not run on a CPU
    x = torch.randn(2, 6, 9, 7)
    scales = torch.linspace(0.5, 2, 6)[:, None, None]
    change = (norm.float().train()(x * scales) - norm(x)).abs().max()
    assert (change < 1e-4) == expected


def test_the_block_says_where_a_scale_before_it_changes_nothing():
    assert "keeps channels apart" in make_block().scale_invariant
    assert make_block(norm=None).scale_invariant == ""
    assert make_block(norm=norm_factory("LN")).scale_invariant == ""


@pytest.mark.parametrize("first", [False, True])
def test_separable_conv_has_one_norm_behind_the_pair(first):
    torch.manual_seed(0)
    conv = SeparableConv(6, 4, activation_first=first, activation=not first).double().eval()
    x = make_input()
    inner = nn.functional.silu(x) if first else x
    inner = nn.functional.conv2d(inner, conv.depthwise.weight, padding=1, groups=6)
    expected = conv.norm(nn.functional.conv2d(inner, conv.pointwise.weight))
    torch.testing.assert_close(conv(x), expected if first else nn.functional.silu(expected), rtol=0, atol=1e-12)
    shapes = {name: tuple(value.shape) for name, value in conv.named_parameters()}
    norm = {"norm.weight": (4,), "norm.bias": (4,)}
    assert shapes == {"depthwise.weight": (6, 1, 3, 3), "pointwise.weight": (4, 6, 1, 1), **norm}
    assert isinstance(conv.norm, nn.BatchNorm2d)
    without = SeparableConv(6, 4, norm=None)
    assert isinstance(without.norm, nn.Identity) and without.pointwise.bias.shape == (4,)
    assert isinstance(without.before, nn.Identity) and isinstance(without.after, nn.Identity), "unless asked for"
