"""ADE20K's official numbers, by the benchmark's devkit (evaluationCode of CSAILVision/sceneparsing).

There the mean is over all 150 classes and a class that is in no truth counts 0, whatever the policy for mIoU; the
score that ranks a submission is the mean of that and of the pixel accuracy. The devkit adds 2e-16 to each union; here
a class without pixels is 0 by rule.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .confusion import metrics_from_counts
from .parts import CONFUSION, Sample


class ADE20KScore:
    """mIoU_all and score; a part that follows from the confusion matrix."""

    note = "mIoU_all: over all classes, 0 for those in no truth, as ADE20K's devkit; score = (pACC + mIoU_all) / 2"

    def update(self, prediction: np.ndarray, truth: np.ndarray, sample: Sample) -> None:
        """Nothing to count."""

    def counts(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def results(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """{"mIoU_all", "score"} in percent."""
        metrics = metrics_from_counts(counts[CONFUSION], absent="zero")
        mean_iou, accuracy = 100 * metrics.mean_iou, 100 * metrics.pixel_accuracy
        return {"mIoU_all": mean_iou, "score": (accuracy + mean_iou) / 2}
