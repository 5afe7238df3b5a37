"""The confusion matrix of a data set and the metrics that follow from it. Pure: numpy and OpenCV, no torch, no engine.

Counts are int64 and exact. An image is counted in one of two ways, whichever is faster for it; both are several times
faster than an index for bincount. Label maps are made of runs of equal (truth, prediction) pairs: usually each run is
counted at once, by its end and its length. Eight pixels are looked at together, as a word: most words hold no end, and
the others are so full of ends that numpy finds those without a branch for each. Where runs are short (noise, an
untrained network) one OpenCV histogram in two dimensions counts pixel by pixel; its bins are float32, exact to 2^24.
Images are counted in tiles, far smaller than that: memory that is small stays with the process and in its cache.

Classes that are in no truth are handled by one explicit policy, see ABSENT_POLICIES. IoU and accuracies are in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scaleeq.choices import one_of

# What becomes of a class that is in no truth; printed with every result. fwIoU and pACC are the same under all.
ABSENT_POLICIES = {
    "exclude": "a class in neither truth nor predictions is left out; predicted but in no truth, its IoU is 0 "
    "(as mmsegmentation, torchmetrics, cityscapesscripts)",
    "zero": "a class in no truth has IoU and accuracy 0 (as ADE20K's devkit)",
    "one": "a class in neither truth nor predictions has IoU 1; predicted but in no truth, its IoU is 0; either way "
    "its accuracy is 1 (as segmentation_models_pytorch)",
    "truth": "a class in no truth is left out, predicted or not (as Detectron2)",
}
TILE_PIXELS = 1 << 18  # its temporaries are small enough for malloc to reuse; fresh pages cost more than counting
FLOAT_PIXELS = 1 << 24  # integers up to here are exact in float32
WORD = 8  # pixels, looked at together
MANY_CHANGES = 0.55  # share of words in which a run ends; above it (runs below 10 pixels) the histogram is faster


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
        self._pairs = PairCounts()

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
        pairs = self._pairs.of(prediction.ravel(), truth.ravel())
        counts = pairs[: self.num_classes, : self.num_classes]
        if counts.sum() + int(pairs[self.ignore_label].sum()) != truth.size:
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


class PairCounts:
    """Counts the pairs of an image, in memory that is kept: fresh pages would cost more than counting."""

    def __init__(self) -> None:
        self._counts = np.empty((256, 256), np.int64)
        self._histogram = np.empty((256, 256), np.float32)
        self._scratch = np.empty((2, TILE_PIXELS), np.uint8)

    def __reduce__(self) -> tuple[type[PairCounts], tuple[()]]:
        """Copies, and what is sent to other processes, need none of the memory's content."""
        return PairCounts, ()

    def of(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Counts: (256, 256) int64, at [truth, prediction]; valid until the next call.

        prediction, truth: (N,) uint8.
        """
        self._counts.fill(0)
        for start in range(0, truth.size, FLOAT_PIXELS):
            part = slice(start, start + FLOAT_PIXELS)
            self._add(prediction[part], truth[part])
        return self._counts

    def _add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """At most FLOAT_PIXELS pixels."""
        self._histogram.fill(0)
        for start in range(0, truth.size, TILE_PIXELS):
            tile = prediction[start : start + TILE_PIXELS], truth[start : start + TILE_PIXELS]
            words = find_changes(*tile, scratch=self._scratch)
            changed = np.flatnonzero(words != 0)
            if len(changed) > MANY_CHANGES * len(words):
                add_pixels(*tile, self._histogram)
            else:
                add_runs(*tile, self._counts, words, changed)
        if self._histogram.any():
            np.add(self._counts, self._histogram, out=self._counts, casting="unsafe")


def find_changes(prediction: np.ndarray, truth: np.ndarray, *, scratch: np.ndarray) -> np.ndarray:
    """Words: (ceil(N / WORD),) uint64, a view of `scratch` whose bytes are 0 but at the last pixel of each run.

    prediction, truth: (N,) uint8, N >= 1. scratch: (2, a multiple of WORD from N on) uint8, overwritten.
    """
    size = truth.size
    changes, other = scratch[:, : -(-size // WORD) * WORD]
    np.bitwise_xor(truth[1:], truth[:-1], out=changes[: size - 1])
    np.bitwise_xor(prediction[1:], prediction[:-1], out=other[: size - 1])
    np.bitwise_or(changes[: size - 1], other[: size - 1], out=changes[: size - 1])
    changes[size - 1] = 1
    changes[size:] = 0
    return changes.view(np.uint64)


def add_runs(
    prediction: np.ndarray, truth: np.ndarray, counts: np.ndarray, words: np.ndarray, changed: np.ndarray
) -> None:
    """Add to counts: (256, 256) int64, at [truth, prediction], each run by its end and its length.

    prediction, truth: (N,) uint8. words: of find_changes. changed: (C,), the indices of those that are not 0.
    """
    where = np.flatnonzero(words.take(changed).view(np.uint8) != 0)
    ends = changed.take(where // WORD) * WORD + where % WORD
    lengths = ends.copy()
    lengths[1:] -= ends[:-1]
    lengths[0] += 1
    pairs = truth.take(ends).astype(np.intp) * 256 + prediction.take(ends)
    np.add.at(counts.reshape(-1), pairs, lengths)


def add_pixels(prediction: np.ndarray, truth: np.ndarray, histogram: np.ndarray) -> None:
    """Add to histogram: (256, 256) float32, exact up to FLOAT_PIXELS pixels, at [truth, prediction], pixel by pixel.

    prediction, truth: (N,) uint8.
    """
    cv2.calcHist([truth[None], prediction[None]], [0, 1], None, [256] * 2, [0, 256] * 2, histogram, accumulate=True)


def metrics_from_counts(counts: np.ndarray, absent: str = "exclude") -> Metrics:
    """Metrics of counts: (K, K) int64 at [truth, prediction]. absent: one of ABSENT_POLICIES."""
    one_of(absent, ABSENT_POLICIES, key="the policy for absent classes")
    right = counts.diagonal().astype(np.float64)
    in_truth, in_prediction = counts.sum(axis=1), counts.sum(axis=0)
    iou = divide(right, in_truth + in_prediction - counts.diagonal())
    accuracy = divide(right, in_truth)
    if absent == "truth":
        iou[in_truth == 0] = np.nan
    elif absent != "exclude":
        value = {"zero": 0.0, "one": 1.0}[absent]
        iou, accuracy = np.nan_to_num(iou, nan=value), np.nan_to_num(accuracy, nan=value)
    total = int(in_truth.sum())
    return Metrics(
        iou=iou,
        accuracy=accuracy,
        mean_iou=mean(iou),
        mean_accuracy=mean(accuracy),
        frequency_weighted_iou=float((np.nan_to_num(iou) * in_truth).sum() / total) if total else float("nan"),
        pixel_accuracy=float(right.sum() / total) if total else float("nan"),
    )


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotients, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
