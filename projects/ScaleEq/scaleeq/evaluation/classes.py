"""IoU of the classes of a task that is not semantic segmentation, such as human parts: from one confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .confusion import ABSENT_POLICIES, ConfusionMatrix, metrics_from_counts
from .values import Count, Counts


class ClassesScore:
    """mIoU, mACC, pACC and IoU-<class> in percent. absent: of ABSENT_POLICIES."""

    def __init__(self, classes: Sequence[str], *, absent: str = "exclude") -> None:
        self.classes, self.absent = tuple(classes), absent
        self.note = ABSENT_POLICIES[absent]
        self._confusion = ConfusionMatrix(num_classes=len(classes))

    def update(self, prediction: np.ndarray, truth: np.ndarray, source: str) -> None:
        """Count an image. prediction: (K, H, W) scores; truth: (H, W) uint8, 255: void."""
        self._confusion.update(prediction.argmax(axis=0).astype(np.uint8), truth, source=source)

    def counts(self) -> Counts:
        return {"confusion": self._confusion.counts}

    def results(self, counts: Mapping[str, Count]) -> dict[str, float]:
        metrics = metrics_from_counts(counts["confusion"], absent=self.absent)
        means = {"mIoU": metrics.mean_iou, "mACC": metrics.mean_accuracy, "pACC": metrics.pixel_accuracy}
        each = {f"IoU-{name}": float(iou) for name, iou in zip(self.classes, metrics.iou, strict=True)}
        return {name: 100 * value for name, value in (means | each).items()}
