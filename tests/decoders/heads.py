"""Heads of classes, as a test builds them of a decoder: the predictor first, as a config's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scaleeq.decoders import Decoder
from scaleeq.tasks import SemanticTask
from scaleeq.tasks.head import SegmentationHead
from scaleeq.tasks.losses.segmentation import SegmentationLoss


def head_of(
    decoder: Callable[..., Decoder],
    levels: Any,
    channels: int = 8,
    *,
    num_classes: int = 3,
    loss: SegmentationLoss | None = None,
    dropout: float = 0.1,
    **options: Any,
) -> SegmentationHead:
    """options: of the decoder."""
    task = SemanticTask(num_classes=num_classes, loss=loss)
    predictor = task.predictor(channels)
    return SegmentationHead(decoder(levels, channels, **options), task, dropout=dropout, predictor=predictor)
