"""What a norm behind the convolution lets an equalizer leave out: a mean, a common factor. Oracle: torch's layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.layers import fold_input_affine, norm_factory

CHANNELS, WIDTH = 6, 12
NORMS = {
    "batch norm": (lambda: nn.BatchNorm2d(WIDTH), True),
    "instance norm": (lambda: nn.InstanceNorm2d(WIDTH), True),
    "a group a channel": (lambda: nn.GroupNorm(WIDTH, WIDTH), True),
    "groups": (lambda: nn.GroupNorm(3, WIDTH), False),
    "layer norm": (lambda: norm_factory("LN")(WIDTH), False),
    "none": (nn.Identity, False),
}


def setting() -> tuple[nn.Conv2d, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A 3x3 convolution without bias, a map, and the mean and std of its channels' equalizer."""
    torch.manual_seed(0)
    conv = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1, bias=False).double()
    mean = torch.rand(CHANNELS, 1, 1, dtype=torch.float64) + 0.5
    std = torch.rand(CHANNELS, 1, 1, dtype=torch.float64) + 0.5
    return conv, torch.randn(2, CHANNELS, 16, 16, dtype=torch.float64) * std + mean, mean, std


def without_mean(conv: nn.Conv2d, std: torch.Tensor) -> torch.Tensor:
    """The weights of the equalized convolution whose mean is dropped."""
    return conv.weight.detach() / std


@pytest.mark.parametrize("name", NORMS)
def test_a_mean_may_be_dropped_only_before_a_norm_of_each_channel_and_with_the_mean_as_padding(name):
    make_norm, removes_constants = NORMS[name]
    norm, (conv, x, mean, std) = make_norm().double(), setting()
    expected = norm(conv((x - mean) / std))
    padded = x - mean  # zero padding of this is padding of x with its mean
    dropped = norm(F.conv2d(F.pad(padded, (1, 1, 1, 1)) + mean, without_mean(conv, std)))
    at_zero_padding = norm(F.conv2d(x, without_mean(conv, std), padding=1))
    kept = norm(fold_input_affine(conv, (1 / std).flatten(), (-mean / std).flatten())(x))
    torch.testing.assert_close(kept, expected, rtol=0, atol=1e-11)
    assert ((dropped - expected).abs().max() < 1e-9) == removes_constants
    assert (at_zero_padding - expected).abs().max() > 0.05  # the border, and its part in the norm's statistics


def test_a_frozen_batch_norm_takes_the_mean_into_its_running_mean():
    conv, x, mean, std = setting()
    norm = nn.BatchNorm2d(WIDTH).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    expected = norm(conv((x - mean) / std))
    weight = without_mean(conv, std)
    taps = (weight * mean).sum((1, 2, 3))
    norm.running_mean += taps
    dropped = norm(F.conv2d(F.pad(x - mean, (1, 1, 1, 1)) + mean, weight))
    torch.testing.assert_close(dropped, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("factor", "limit"), [(0.1, 5e-3), (10, 1e-4)])
def test_before_a_batch_norm_only_the_ratios_of_stds_matter(factor, limit):
    conv, x, mean, std = setting()
    norm = nn.BatchNorm2d(WIDTH).double()
    expected = norm(conv((x - mean) / std))
    change = (norm(conv((x - mean) / std * factor)) - expected).norm() / expected.norm()
    assert 0 < change < limit  # its eps is what is left
    uneven = torch.linspace(1, factor, CHANNELS, dtype=torch.float64)[:, None, None]
    assert (norm(conv((x - mean) / std * uneven)) - expected).norm() > 0.1 * expected.norm()
