"""How weights start."""

from __future__ import annotations

import math

import torch
from torch import nn


def caffe2_xavier_(*convs: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Caffe2's Xavier fill, uniform over the fan-in, and zero biases: how FPN and FaPN start."""
    for conv in convs:
        nn.init.kaiming_uniform_(conv.weight, a=1)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)


def fan_in_uniform_(weight: torch.Tensor) -> None:
    """weight: (C_out, ...), uniform within 1 / sqrt(the size of what one output reads)."""
    bound = 1 / math.sqrt(weight[0].numel())
    nn.init.uniform_(weight, -bound, bound)


def zero_(module: nn.Module) -> None:
    """All parameters of a module."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
