"""Spatial gates (GSTO, arXiv 2005.13363, equations 1 to 4): a factor per pixel, shared by all channels.

"paper" is the equations' gate, 1x1 convolution and sigmoid, in (0, 1). "reference" is the one of the authors' released
code, with batch norm and ReLU between the two: in [0.5, 1), and the one that their weights need.
"""

from __future__ import annotations

import torch
from torch import nn

from .norm import batch_norm

GATES = ("paper", "reference")


class Gate(nn.Module):
    """x * g(x). `map` computes g: (N, C, H, W) -> (N, 1, H, W); a forward hook on it shows the gate."""

    def __init__(self, channels: int, *, kind: str = "paper"):
        """ValueError: an unknown kind."""
        super().__init__()
        if kind not in GATES:
            raise ValueError(f"MODEL.GATE is {kind!r}; choose one of {', '.join(GATES)}")
        conv = nn.Conv2d(channels, 1, 1, bias=False)
        between = [batch_norm(1), nn.ReLU()] if kind == "reference" else []
        self.map = nn.Sequential(conv, *between, nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return x * self.map(x)


class SupervisedGate(nn.Module):
    """x * g(P(x)): the gate is computed from class logits P that have a loss of their own.

    In training `logits` holds the latest P(x), (N, num_classes, H, W), for that loss.
    """

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"a supervised gate predicts classes; num_classes is {num_classes}")
        self.predictor = nn.Conv2d(channels, num_classes, 1)
        self.map = nn.Sequential(nn.Conv2d(num_classes, 1, 1, bias=False), nn.Sigmoid())
        self.logits: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        logits = self.predictor(x)
        if self.training:
            self.logits = logits
        return x * self.map(logits)
