"""The labels of upsampled scores, a class at a time: the scores of all classes at the labels' size never exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from .strips import STRIP_BYTES_ELSEWHERE


class Argmax(NamedTuple):
    """The labels of an image's scores, in the place of the scores.

    labels: (H, W) uint8. finite: () uint8, 1 where the largest score of every pixel is finite. num_classes: of the
    scores.
    """

    labels: torch.Tensor
    finite: torch.Tensor
    num_classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the scores, (K, H, W)."""
        return (self.num_classes, *self.labels.shape)


def resized_argmax(scores: torch.Tensor, resized: Callable[[torch.Tensor], torch.Tensor]) -> Argmax:
    """The labels of `resized(scores)`, bit for bit those of its maximum over the classes.

    Args:
        scores: (K, h, w), of at most 256 classes.
        resized: maps of some classes (k, h, w) -> (k, H, W); each channel by itself, as every resize does.
    """
    best: torch.Tensor | None = None
    for first, maps in _chunks(scores.contiguous(), resized):
        values, own = maps[0], torch.tensor(first, dtype=torch.uint8)
        if len(maps) > 1:
            values, places = maps.max(0)
            own = places.to(torch.uint8) + first
        if best is None:
            best, labels = values.clone(), torch.zeros_like(values, dtype=torch.uint8) + own
            continue
        # A later class has a larger label, so that the larger label is that of the larger score.
        labels = torch.maximum(labels, (values > best).view(torch.uint8).mul_(own), out=labels)
        best = torch.maximum(best, values, out=best)
    assert best is not None
    return Argmax(labels, best.isfinite().all().to(torch.uint8), len(scores))


def _chunks(
    scores: torch.Tensor, resized: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[tuple[int, torch.Tensor]]:
    """The number of the first class, and the maps: one on a CPU, where it stays in the cache, else as many as fit."""
    maps = resized(scores[:1])
    yield 0, maps
    at_once = 1 if scores.device.type == "cpu" else max(1, STRIP_BYTES_ELSEWHERE // (maps.nbytes or 1))
    for first in range(1, len(scores), at_once):
        yield first, resized(scores[first : first + at_once])
