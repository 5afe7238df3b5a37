"""What a metric beside the confusion matrix's own is: counts that add up over images and processes.

Counts are int64, so that neither the order of the images nor the number of processes changes a digit. A fraction is
kept in units of 1 / FIXED_POINT. A metric that follows from the confusion matrix counts nothing of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol

import numpy as np

from scaleeq.records import RecordView

FIXED_POINT = 1 << 40
CONFUSION = "confusion"

Sample = RecordView  # of the test loader: "file_name", and the truth of each task
ModelOutput = MutableMapping[str, Any]  # for one image: "sem_seg": (K, H, W) scores


class Part(Protocol):
    """One more metric of the same pass over the images.

    note: what the numbers mean, in a line under the table.
    """

    note: str

    def update(self, prediction: np.ndarray, truth: np.ndarray, sample: Sample) -> None:
        """Count an image: prediction and truth (H, W) uint8, checked already; sample: of the test loader."""

    def counts(self) -> dict[str, np.ndarray]:
        """Name -> int64 array, empty ones for a part that counts nothing; those of several processes are added."""

    def results(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Metric -> value in percent; NaN where undefined. "<kind>-<class>" is a column of the table of classes.

        counts: this part's, summed over processes, and beside them CONFUSION: (K, K) int64 at [truth, prediction].
        """
