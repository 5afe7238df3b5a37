"""What an equalized convolution costs is measured beside the plain one, which stays as it is."""

from __future__ import annotations

import torch
from torch import nn

from evidence.calibration_cost import equalized_conv_cost


def test_the_cost_is_measured_beside_the_plain_convolution():
    conv, x = nn.Conv2d(6, 2, 1), torch.randn(1, 6, 32, 32)
    kept = conv.weight.detach().clone()
    cost = equalized_conv_cost(conv, x, [4, 2], rounds=1)
    ways = ("reparametrize", "module")
    assert set(cost) == {"plain", *ways, *(f"{way} centred" for way in ways)}
    assert all(value > 0 for values in cost.values() for value in values.values())
    assert torch.equal(conv.weight, kept) and conv.weight.grad is None
    assert set(equalized_conv_cost(nn.Conv2d(6, 2, 3, padding=1), x, [4, 2], rounds=1)) == {"plain", *ways}
