"""The confusion matrix of a data set and the metrics that follow from it. Pure: numpy and OpenCV, no torch, no engine.

Counts are int64 and exact. An image is counted in one of two ways, whichever is faster for it; both are many times
faster than an index for bincount. Label maps are made of runs of equal (truth, prediction) pairs: usually each run is
counted at once, by its end and its length. Where runs are short (noise, an untrained network) one OpenCV histogram in
two dimensions counts pixel by pixel; its bins are float32, exact below 2^24, hence large images are counted in tiles.

Classes that are in no truth are handled by one explicit policy, see ABSENT_POLICIES. IoU and accuracies are in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# What becomes of a class that is in no truth; printed with every result. fwIoU and pACC are the same under all.
ABSENT_POLICIES = {
    "exclude": "a class in neither truth nor predictions is left out; predicted but in no truth, its IoU is 0 "
    "(as mmsegmentation, torchmetrics, cityscapesscripts)",
    "zero": "a class in no truth has IoU and accuracy 0 (as ADE20K's devkit)",
    "one": "a class in neither truth nor predictions has IoU 1; predicted but in no truth, its IoU is 0; either way "
    "its accuracy is 1 (as segmentation_models_pytorch)",
    "truth": "a class in no truth is left out, predicted or not (as Detectron2)",
}
TILE_PIXELS = 1 << 24  # integers up to here are exact in float32
SHORT_RUN = 8  # pixels; below this mean length the histogram is faster (measured: about equal from 5 to 13)


@dataclass(frozen=True)
class Metrics:
    """Metrics in [0, 1]; NaN where undefined.

    iou, accuracy: (K,) float64, per class; NaN for classes that are left out.
    mean_iou, mean_accuracy: over the classes that are not left out.
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
        self._scratch = np.empty((2, 0), np.uint8)  # kept, as large as the largest image: fresh memory costs time

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
        counts, ignored = self._count(np.ascontiguousarray(prediction).ravel(), np.ascontiguousarray(truth).ravel())
        if counts.sum() + ignored != truth.size:
            self._refuse(prediction, truth, source)
        self.counts += counts

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix, for example of another process."""
        if (other.num_classes, other.ignore_label) != (self.num_classes, self.ignore_label):
            raise ValueError("confusion matrices of different classes or ignore labels cannot be merged")
        self.counts += other.counts

    def metrics(self, absent: str = "exclude") -> Metrics:
        """The metrics of all images counted so far. absent: one of ABSENT_POLICIES."""
        return metrics_from_counts(self.counts, absent=absent)

    def _count(self, prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, int]:
        """Counts: (K, K) int64 of flat maps, without pixels that are no class; and the number of ignored pixels."""
        if has_short_runs(prediction, truth):
            counts = count_pixels(prediction, truth, self.num_classes)
            return counts, cv2.countNonZero(cv2.compare(truth, self.ignore_label, cv2.CMP_EQ))
        if truth.size > self._scratch.shape[1]:
            self._scratch = np.empty((2, truth.size + 8 - truth.size % 8), np.uint8)
        pairs = count_runs(prediction, truth, scratch=self._scratch)
        return pairs[: self.num_classes, : self.num_classes].astype(np.int64), int(pairs[self.ignore_label].sum())

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


def has_short_runs(prediction: np.ndarray, truth: np.ndarray) -> bool:
    """Whether runs of equal pairs look shorter than SHORT_RUN pixels: 64 of every 1021 pixels are looked at.

    prediction, truth: (N,) uint8. True below 1021 pixels (a prime, so that no usual width sees the same columns only).
    """
    size = truth.size // 1021 * 1021
    guess, true = (labels[:size].reshape(-1, 1021)[:, :64] for labels in (prediction, truth))
    changes = (guess[:, 1:] != guess[:, :-1]) | (true[:, 1:] != true[:, :-1])
    return bool(np.count_nonzero(changes) * SHORT_RUN >= changes.size)


def count_runs(prediction: np.ndarray, truth: np.ndarray, *, scratch: np.ndarray) -> np.ndarray:
    """Counts: (256, 256) float64, whole numbers, exact below 2^53, at [truth, prediction].

    prediction, truth: (N,) uint8, N >= 1.
    scratch: (2, M) uint8, overwritten; M a multiple of 8 and at least N.
    """
    size = truth.size
    changes, other = scratch[:, : (size + 7) // 8 * 8]  # nonzero at the last pixel of each run
    np.bitwise_xor(truth[1:], truth[:-1], out=changes[: size - 1])
    np.bitwise_xor(prediction[1:], prediction[:-1], out=other[: size - 1])
    np.bitwise_or(changes, other, out=changes)
    changes[size - 1 :] = 0
    changes[size - 1] = 1
    ends = nonzero_bytes(changes)
    pairs = truth.take(ends).astype(np.intp) * 256 + prediction.take(ends)
    return np.bincount(pairs, weights=np.diff(ends, prepend=-1), minlength=256 * 256).reshape(256, 256)


def nonzero_bytes(array: np.ndarray) -> np.ndarray:
    """Where the array: (8 n,) uint8 is not 0, ascending; by words of 8 first, as most of them are 0 in whole."""
    words = array.view(np.uint64)
    at = np.flatnonzero(words != 0)
    inside = np.flatnonzero(words[at].view(np.uint8) != 0)
    return at[inside >> 3] * 8 + (inside & 7)


def count_pixels(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts: (K, K) int64 at [truth, prediction], without pixels where either is K or more.

    prediction, truth: (N,) uint8.
    """
    counts = np.zeros((num_classes, num_classes), np.int64)
    for start in range(0, truth.size, TILE_PIXELS):
        tile = [labels[None, start : start + TILE_PIXELS] for labels in (truth, prediction)]
        histogram = cv2.calcHist(tile, [0, 1], None, [num_classes] * 2, [0, num_classes] * 2)
        counts += histogram.reshape(counts.shape).astype(np.int64)
    return counts


def metrics_from_counts(counts: np.ndarray, absent: str = "exclude") -> Metrics:
    """Metrics of counts: (K, K) int64 at [truth, prediction]. absent: one of ABSENT_POLICIES."""
    check_policy(absent)
    right = counts.diagonal().astype(np.float64)
    in_truth, in_prediction = counts.sum(axis=1), counts.sum(axis=0)
    iou = _divide(right, in_truth + in_prediction - counts.diagonal())
    accuracy = _divide(right, in_truth)
    if absent == "truth":
        iou[in_truth == 0] = np.nan
    elif absent != "exclude":
        value = {"zero": 0.0, "one": 1.0}[absent]
        iou, accuracy = np.nan_to_num(iou, nan=value), np.nan_to_num(accuracy, nan=value)
    total = int(in_truth.sum())
    return Metrics(
        iou=iou,
        accuracy=accuracy,
        mean_iou=_mean(iou),
        mean_accuracy=_mean(accuracy),
        frequency_weighted_iou=float((np.nan_to_num(iou) * in_truth).sum() / total) if total else float("nan"),
        pixel_accuracy=float(right.sum() / total) if total else float("nan"),
    )


def check_policy(absent: str) -> None:
    """Raise ValueError if there is no such policy for absent classes."""
    if absent not in ABSENT_POLICIES:
        raise ValueError(f"unknown policy for absent classes {absent!r}; valid are {', '.join(ABSENT_POLICIES)}")


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotients, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
