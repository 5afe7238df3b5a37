"""Spatial gates (GSTO, arXiv 2005.13363, equations 1 to 4): a factor per pixel, shared by all channels.

"paper" is the equations' gate, a 1x1 convolution and a sigmoid, in (0, 1). "reference" is the one of the authors'
released code, with batch norm and ReLU between the two: in [0.5, 1), and the one that their weights need. There, class
logits at a finer resolution pass through 3x3 convolutions, all but the first of stride 2; for "paper" we resize them.

Convolutions start at N(0, 0.001), as all of the released code's do: a "paper" gate starts at about one half everywhere.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.ops import resize

from .norm import batch_norm

GATES = ("paper", "reference")


def _step(channels: int, kind: str, *, kernel_size: int = 1, stride: int = 1) -> list[nn.Module]:
    """One convolution to a single channel, and what follows it before the sigmoid."""
    conv = nn.Conv2d(channels, 1, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
    nn.init.normal_(conv.weight, std=0.001)
    return [conv, batch_norm(1), nn.ReLU()] if kind == "reference" else [conv]


class Gate(nn.Module):
    """x * g(x). `map` computes g: (N, C, H, W) -> (N, 1, H, W); a forward hook on it shows the gate."""

    def __init__(self, channels: int, *, kind: str = "paper"):
        """ValueError: an unknown kind."""
        super().__init__()
        one_of(kind, GATES, key="MODEL.GATE")
        self.map = nn.Sequential(*_step(channels, kind), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return x * self.map(x)


class LogitsGate(nn.Module):
    """x * g(P), for class logits P that something else computes and trains; `map` computes g."""

    def __init__(self, num_classes: int, *, kind: str = "paper", halvings: int = 0):
        """halvings: how often the logits' size must be halved (rounded up) to be that of x.

        ValueError: an unknown kind; no classes.
        """
        super().__init__()
        one_of(kind, GATES, key="MODEL.GATE")
        if num_classes < 1:
            raise ValueError(f"a supervised gate predicts classes; num_classes is {num_classes}")
        self.resizes = kind == "paper"
        kernel_size = 1 if self.resizes else 3
        # One channel first; then a halving each time.
        steps = _step(num_classes, kind, kernel_size=kernel_size)
        if not self.resizes:
            for _ in range(halvings):
                steps += _step(1, kind, kernel_size=3, stride=2)
        self.map = nn.Sequential(*steps, nn.Sigmoid())

    def forward(self, x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W); logits: (N, num_classes, H * 2**halvings, W * 2**halvings) -> (N, C, H, W)."""
        if self.resizes:
            logits = resize(logits, (x.shape[-2], x.shape[-1]))
        return x * self.map(logits)


class collected_logits:
    """What supervised gates predict inside the context, for the loss of it: gate -> (N, num_classes, H, W).

        with collected_logits() as predicted:
            ...  # a forward pass in training

    Nothing is kept afterwards but by the caller. Contexts may be nested; the inner one has what it saw.
    """

    _open: ClassVar[list[dict[nn.Module, torch.Tensor]]] = []

    def __enter__(self) -> dict[nn.Module, torch.Tensor]:
        predicted: dict[nn.Module, torch.Tensor] = {}
        self._open.append(predicted)
        return predicted

    def __exit__(self, *_: object) -> None:
        self._open.pop()

    @classmethod
    def report(cls, gate: nn.Module, logits: torch.Tensor) -> None:
        """Hand a gate's prediction to the innermost context, where there is one."""
        if cls._open:
            cls._open[-1][gate] = logits


class SupervisedGate(nn.Module):
    """x * g(P(x)): the gate is computed from class logits P that have a loss of their own.

    In training P(x) is reported to `collected_logits`, for that loss.
    """

    def __init__(self, channels: int, num_classes: int, *, kind: str = "paper"):
        """ValueError: an unknown kind; no classes."""
        super().__init__()
        self.gate = LogitsGate(num_classes, kind=kind)
        self.predictor = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        logits = self.predictor(x)
        if self.training:
            collected_logits.report(self, logits)
        return self.gate(x, logits)
