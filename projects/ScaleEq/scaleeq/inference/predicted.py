"""What an inference asks of a model and of its tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import torch

from scaleeq.geometry import Geometry

Predict = Callable[[torch.Tensor], torch.Tensor]
"""image: (3, h, w) -> logits (K, h, w), or at another size that is the same for every image."""

Maps = dict[str, torch.Tensor]
"""Task -> (K, H, W): all predictions of one image."""


class Predicted(Protocol):
    """What inference asks of a task.

    name: its key in a result. averages: "logits" of classes, whose probabilities are averaged, or "values".
    """

    @property
    def name(self) -> str: ...

    @property
    def averages(self) -> str: ...

    @property
    def geometry(self) -> Geometry: ...

    def settled(self, values: torch.Tensor) -> torch.Tensor:
        """values: (K, H, W), a mean of predictions -> one prediction."""
        ...


@dataclasses.dataclass(frozen=True)
class Classes:
    """Semantic segmentation, for models that name no task."""

    name: str = "sem_seg"
    averages: str = "logits"
    geometry: Geometry = dataclasses.field(default_factory=lambda: Geometry(labels=True))

    def settled(self, values: torch.Tensor) -> torch.Tensor:
        """values: (K, H, W) -> the same."""
        return values
