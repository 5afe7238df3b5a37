"""Batches of a training step: cut into micro-batches, and sent to the device."""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch

from scaleeq.ops import send
from scaleeq.records import Record

Batch = list[Record]


def cut(batch: Batch, size: int) -> Iterator[Batch]:
    """Pieces of a batch, in its order, of `size` samples (the last one of the rest)."""
    for first in range(0, len(batch), size):
        yield batch[first : first + size]


def to_device(batch: Batch, device: torch.device, targets: Container[str] = ("sem_seg",)) -> Batch:
    """The samples with their images and targets on the device, labels as int64; the host does not wait.

    From pinned memory (data.loading), that is: from other memory each copy makes it wait.
    """

    def moved(name: str, value: object) -> object:
        if not (name == "image" or name in targets) or not isinstance(value, torch.Tensor):
            return value  # what else a sample holds is its model's affair
        value = send(value, device)
        return value.long() if name == "sem_seg" else value

    return [
        {name: moved(name, value) for name, value in sample.items()} if isinstance(sample, dict) else sample
        for sample in batch
    ]
