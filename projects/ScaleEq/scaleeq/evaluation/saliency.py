"""maxF of saliency: the largest F over thresholds, with beta^2 = 0.3 (Achanta et al. 2009).

Papers on several tasks differ in what they call so: counts pooled over all images at 19 thresholds (ATRC, the default
here), precision and recall averaged over images first, at 15 thresholds (MTI-Net), or 255 thresholds. Numbers of
different kinds are not comparable; the kind is a key, and is printed with the number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scaleeq.choices import one_of

from .values import Count, Counts, exact, mean_of

BETA2 = 0.3
VOID = 255
# Kind -> thresholds, and whether precision and recall are averaged over images before F.
KINDS: dict[str, tuple[np.ndarray, bool]] = {
    "pooled_19": (np.arange(1, 20) * 0.05, False),
    "pooled_255": (np.arange(255) / 255, False),
    "images_15": (np.linspace(0.2, 0.9, 15), True),
}


class SaliencyScore:
    """maxF in percent. A pixel is predicted where its probability is above a threshold."""

    def __init__(self, kind: str = "pooled_19") -> None:
        one_of(kind, KINDS, key="TEST.SALIENCY.MAX_F")
        self.thresholds, self.of_images = KINDS[kind]
        self.note = f"maxF of kind {kind}"
        size = len(self.thresholds)
        self._right, self._predicted = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self._true, self._images = 0, 0
        self._precision, self._recall = np.full(size, 0, object), np.full(size, 0, object)

    def update(self, prediction: np.ndarray, truth: np.ndarray, source: str) -> None:
        """Count an image. prediction: (1, H, W), probabilities; truth: (H, W), 0, 1 or 255."""
        known = truth != VOID
        probability, salient = prediction[0][known], truth[known] == 1
        # How many are above each threshold, of all and of those that are right.
        predicted, right = (above(values, self.thresholds) for values in (probability, probability[salient]))
        true = np.count_nonzero(salient)
        self._right += right
        self._predicted += predicted
        self._true += true
        self._images += 1
        if self.of_images:
            for sums, whole in ((self._precision, predicted), (self._recall, np.full_like(predicted, true))):
                shares = np.divide(right, whole, out=np.zeros(len(right)), where=whole > 0)
                sums += [exact(value) for value in shares]

    def counts(self) -> Counts:
        pooled = {"right": self._right, "predicted": self._predicted, "true": self._true, "images": self._images}
        return pooled | {"precision": self._precision, "recall": self._recall}

    def results(self, counts: Mapping[str, Count]) -> dict[str, float]:
        if not counts["images"]:
            return {"maxF": float("nan")}
        right, whole = counts["right"], counts["predicted"]
        precision = np.divide(right, whole, out=np.zeros(len(right)), where=whole > 0)
        recall = right / max(1, counts["true"])
        if self.of_images:
            precision, recall = (
                np.array([mean_of(total, counts["images"]) for total in counts[name]])
                for name in ("precision", "recall")
            )
        return {"maxF": 100 * float(f_measure(precision, recall, BETA2).max())}


def above(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many of values: (N,) are above each of the ascending thresholds: (T,) int64."""
    bins = np.searchsorted(thresholds.astype(np.float32), values, side="left")  # thresholds below each value
    return np.bincount(bins, minlength=len(thresholds) + 1)[::-1].cumsum()[::-1][1:]


def f_measure(precision: np.ndarray, recall: np.ndarray, beta2: float = 1.0) -> np.ndarray:
    """(1 + beta^2) P R / (beta^2 P + R); 0 where both are 0."""
    denominator = beta2 * precision + recall
    return np.divide(
        (1 + beta2) * precision * recall, denominator, out=np.zeros_like(denominator), where=denominator > 0
    )
