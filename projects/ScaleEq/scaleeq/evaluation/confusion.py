"""The confusion matrix of a data set and the metrics that follow from it. Pure: numpy and OpenCV, no torch, no engine.

Counts are int64 and exact. One OpenCV histogram in two dimensions counts an image, ten times faster than building an
index for bincount; its bins are float32, exact below 2^24, hence large images are counted in tiles.

Absent classes, by one explicit policy. "exclude" (as mmsegmentation, torchmetrics and cityscapesscripts): a class in
neither truth nor prediction has no IoU and does not enter mIoU; a class that is predicted but not in the truth has IoU
0, and no accuracy. "zero" (as the ADE20K devkit): both count as 0. IoU and accuracies are in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

ABSENT_POLICIES = ("exclude", "zero")
TILE_PIXELS = 1 << 24  # integers up to here are exact in float32


@dataclass(frozen=True)
class Metrics:
    """Metrics in [0, 1]; NaN where undefined.

    iou, accuracy: (K,) float64, per class; NaN for excluded classes.
    mean_iou, mean_accuracy: over the classes that are not excluded.
    frequency_weighted_iou: weighted by the pixels of each class in the truth.
    pixel_accuracy: share of the labelled pixels that are right.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    mean_iou: float
    mean_accuracy: float
    frequency_weighted_iou: float
    pixel_accuracy: float


class ConfusionMatrix:
    """Counts of (truth, prediction) pairs over the labelled pixels of many images."""

    def __init__(self, *, num_classes: int, ignore_label: int = 255) -> None:
        """
        num_classes: 1 .. 255.
        ignore_label: pixels with this truth are dropped; outside 0 .. num_classes - 1.
        """
        if not 1 <= num_classes <= 255:
            raise ValueError(f"num_classes must be 1 .. 255, for labels of one byte, not {num_classes}")
        if not num_classes <= ignore_label <= 255:
            raise ValueError(f"the ignore label must be {num_classes} .. 255, outside the classes, not {ignore_label}")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.counts = np.zeros((num_classes, num_classes), np.int64)  # [truth, prediction]

    def update(self, prediction: np.ndarray, truth: np.ndarray, *, source: str = "this image") -> None:
        """Count an image.

        prediction, truth: (H, W) uint8.
        source: named in errors, usually the image's file.
        Raises ValueError, counting nothing, for other shapes or types, for a truth that is neither a class nor the
        ignore label, and for a prediction that is no class.
        """
        for name, array in (("prediction", prediction), ("truth", truth)):
            if array.dtype != np.uint8 or array.ndim != 2:
                raise ValueError(f"the {name} of {source} must be (H, W) uint8, not {array.shape} {array.dtype}")
        if prediction.shape != truth.shape:
            raise ValueError(f"the prediction of {source} is {prediction.shape}, its truth {truth.shape}")
        counts = count_pairs(prediction, truth, self.num_classes)
        ignored = cv2.countNonZero(cv2.compare(np.ascontiguousarray(truth), self.ignore_label, cv2.CMP_EQ))
        if counts.sum() + ignored != truth.size:
            self._refuse(prediction, truth, source)
        self.counts += counts

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix, for example of another process."""
        if (other.num_classes, other.ignore_label) != (self.num_classes, self.ignore_label):
            raise ValueError("confusion matrices of different classes or ignore labels cannot be merged")
        self.counts += other.counts

    def metrics(self, absent: str = "exclude") -> Metrics:
        """The metrics of all images counted so far. absent: "exclude" or "zero"."""
        return metrics_from_counts(self.counts, absent=absent)

    def _refuse(self, prediction: np.ndarray, truth: np.ndarray, source: str) -> None:
        labelled = truth != self.ignore_label
        for name, array in (("truth", truth), ("prediction", prediction)):
            values = np.unique(array[labelled])
            wrong = values[values >= self.num_classes].tolist()
            if wrong:
                raise ValueError(
                    f"the {name} of {source} holds {wrong}; valid are the {self.num_classes} classes "
                    f"0 .. {self.num_classes - 1}" + (f" and {self.ignore_label} to ignore" if name == "truth" else "")
                )
        raise AssertionError("the histogram lost pixels")


def count_pairs(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts: (K, K) int64 at [truth, prediction], without pixels where either is K or more.

    prediction, truth: (H, W) uint8.
    """
    counts = np.zeros((num_classes, num_classes), np.int64)
    truth, prediction = np.ascontiguousarray(truth).reshape(1, -1), np.ascontiguousarray(prediction).reshape(1, -1)
    for start in range(0, truth.size, TILE_PIXELS):
        tile = [array[:, start : start + TILE_PIXELS] for array in (truth, prediction)]
        histogram = cv2.calcHist(tile, [0, 1], None, [num_classes] * 2, [0, num_classes] * 2)
        counts += histogram.reshape(counts.shape).astype(np.int64)
    return counts


def metrics_from_counts(counts: np.ndarray, absent: str = "exclude") -> Metrics:
    """Metrics of counts: (K, K) int64 at [truth, prediction]. absent: "exclude" or "zero"."""
    if absent not in ABSENT_POLICIES:
        raise ValueError(f"unknown policy for absent classes {absent!r}, valid are {ABSENT_POLICIES}")
    right = counts.diagonal().astype(np.float64)
    in_truth, in_prediction = counts.sum(axis=1), counts.sum(axis=0)
    iou = _divide(right, in_truth + in_prediction - counts.diagonal())
    accuracy = _divide(right, in_truth)
    if absent == "zero":
        iou, accuracy = np.nan_to_num(iou), np.nan_to_num(accuracy)
    total = int(in_truth.sum())
    return Metrics(
        iou=iou,
        accuracy=accuracy,
        mean_iou=_mean(iou),
        mean_accuracy=_mean(accuracy),
        frequency_weighted_iou=float((np.nan_to_num(iou) * in_truth).sum() / total) if total else float("nan"),
        pixel_accuracy=float(right.sum() / total) if total else float("nan"),
    )


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotients, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
