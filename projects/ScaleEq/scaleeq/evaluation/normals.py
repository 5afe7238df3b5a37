"""Metrics of surface normals: the angle between predicted and true directions, over all pixels that have one.

The angle is 2 atan2(|a - b|, |a + b|) of unit vectors (Kahan): acos of their product has no digits left near 0. A true
vector counts whose length is above 0.5: 8 bits cannot store 0, and bilinear resizing shortens vectors. (A sum of
components that is not 0, as other code has it, drops (1, -1, 0).) Both are brought to length 1. A prediction of length
0 points nowhere, and is 90 degrees off.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .values import Count, Counts, exact, mean_of, share

KNOWN_LENGTH = 0.5
LIMITS = (11.25, 22.5, 30.0)  # degrees
BINS_PER_DEGREE = 1000  # the median is known to half of a bin


class NormalsScore:
    """mean and median in degrees, and the shares below LIMITS in percent."""

    note = "angles of directions longer than 0.5; the median to 0.001 degrees"

    def __init__(self) -> None:
        self._sum, self._pixels = 0, 0
        self._below = np.zeros(len(LIMITS), np.int64)
        self._histogram = np.zeros(180 * BINS_PER_DEGREE + 1, np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray, source: str) -> None:
        """Count an image. prediction, truth: (3, H, W)."""
        known = (_length(truth) > KNOWN_LENGTH).ravel()
        pair = (prediction.reshape(3, -1), truth.reshape(3, -1))
        degrees = angles(*(pair if known.all() else (each.compress(known, axis=1) for each in pair)))
        self._sum += exact(degrees.sum())
        self._pixels += degrees.size
        self._below += [np.count_nonzero(degrees < limit) for limit in LIMITS]
        bins = (degrees * BINS_PER_DEGREE).astype(np.int64)
        self._histogram += np.bincount(bins, minlength=len(self._histogram))

    def counts(self) -> Counts:
        return {"sum": self._sum, "pixels": self._pixels, "below": self._below, "histogram": self._histogram}

    def results(self, counts: Mapping[str, Count]) -> dict[str, float]:
        pixels = counts["pixels"]
        shares = {
            f"below{limit:g}": share(int(count), pixels) for limit, count in zip(LIMITS, counts["below"], strict=True)
        }
        return {"mean": mean_of(counts["sum"], pixels), "median": median(counts["histogram"], pixels), **shares}


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """first, second: (3, N), of any length -> (N,) float64 in degrees, between 0 and 180."""
    unit = []
    for vectors in (first.astype(np.float64), second.astype(np.float64)):
        length = _length(vectors)
        length[length == 0] = 1
        unit.append(np.divide(vectors, length, out=vectors))
    apart, together = _length(unit[0] - unit[1]), _length(unit[0] + unit[1])
    return np.degrees(2 * np.arctan2(apart, together))


def _length(vectors: np.ndarray) -> np.ndarray:
    """vectors: (3, ...) -> (...): as numpy.linalg.norm, to the bit, in less time."""
    x, y, z = vectors
    return np.sqrt(x * x + y * y + z * z)


def median(histogram: np.ndarray, count: int) -> float:
    """The mean of the two middle values, each the centre of its bin; NaN of none. An angle of 0 is in the first bin."""
    if not count:
        return float("nan")
    below = np.cumsum(histogram)
    middle = [int(np.searchsorted(below, rank, side="right")) for rank in ((count - 1) // 2, count // 2)]
    return float(sum(each + 0.5 for each in middle) / 2 / BINS_PER_DEGREE)
