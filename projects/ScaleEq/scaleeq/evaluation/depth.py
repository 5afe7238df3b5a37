"""Metrics of depth, pooled over all pixels of a data set: not the mean of images' means, which is another number.

Definitions: Eigen et al. 2014 (absRel, sqRel, RMSE, RMSElog, delta); SILog is KITTI's, a mean over images, for it is
the one that is invariant to an image's scale. Papers on several tasks use neither crop nor limits, those on depth alone
both: they are keys, and are printed with the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scaleeq.choices import one_of

from .values import Count, Counts, exact, mean_of, share

# Name -> the size that it is for (height, width), and rows and columns, ends excluded.
CROPS = {"eigen_nyu": ((480, 640), (slice(45, 471), slice(41, 601)))}
CLOSEST_M = 1e-3  # a prediction is at least so far away, where its logarithm or ratio is taken
DELTA = 1.25
SUMS = ("square", "relative", "square_relative", "square_log", "log_deviation")


@dataclass(frozen=True, kw_only=True)
class DepthRange:
    """Which pixels count. crop: of CROPS, or "". closest, farthest: metres, both excluded; 0: no limit.

    With a limit, predictions are brought inside, as in papers on depth alone.
    """

    crop: str = ""
    closest: float = 0.0
    farthest: float = 0.0

    def __post_init__(self) -> None:
        if self.crop:
            one_of(self.crop, CROPS, key="TEST.DEPTH.CROP")
        if self.farthest and self.farthest <= self.closest:
            raise ValueError(f"TEST.DEPTH.MAX is {self.farthest}, not above TEST.DEPTH.MIN {self.closest}; 0: no limit")

    def __str__(self) -> str:
        limits = [f"farther than {self.closest:g} m"] * bool(self.closest)
        limits += [f"nearer than {self.farthest:g} m"] * bool(self.farthest)
        return f"{f'crop {self.crop}' if self.crop else 'no crop'}, {' and '.join(limits) or 'no limits'}"


class DepthScore:
    """rmse in metres, absRel, sqRel in metres, RMSElog, SILog in 100 log(m), delta1..3 in percent."""

    def __init__(self, limits: DepthRange | None = None) -> None:
        self.limits = limits or DepthRange()
        self.note = f"{self.limits}; pooled over pixels, SILog over images"
        self._sums = dict.fromkeys(SUMS, 0)
        self._pixels, self._images = 0, 0
        self._within = np.zeros(3, np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray, source: str) -> None:
        """Count an image. prediction: (1, H, W), truth: (H, W), metres; 0, or not finite: unknown."""
        found, true = self._chosen(prediction[0], truth, source)
        self._pixels += len(true)
        if not len(true):
            return
        error = found - true
        positive = np.maximum(found, CLOSEST_M)
        ratio, log_error = np.maximum(positive / true, true / positive), np.log(positive) - np.log(true)
        sums = {
            "square": np.sum(error**2),
            "relative": np.sum(np.abs(error) / true),
            "square_relative": np.sum(error**2 / true),
            "square_log": np.sum(log_error**2),
            "log_deviation": np.std(log_error),
        }
        for name, value in sums.items():
            self._sums[name] += exact(value)
        self._images += 1
        self._within += [np.count_nonzero(ratio < DELTA**power) for power in (1, 2, 3)]

    def counts(self) -> Counts:
        return {**self._sums, "pixels": self._pixels, "images": self._images, "within": self._within}

    def results(self, counts: Mapping[str, Count]) -> dict[str, float]:
        mean = {name: mean_of(counts[name], counts["pixels"]) for name in SUMS}
        return {
            "rmse": math.sqrt(mean["square"]),
            "absRel": mean["relative"],
            "sqRel": mean["square_relative"],
            "RMSElog": math.sqrt(mean["square_log"]),
            "SILog": 100 * mean_of(counts["log_deviation"], counts["images"]),
            **{f"delta{k + 1}": share(int(counts["within"][k]), counts["pixels"]) for k in range(3)},
        }

    def _chosen(self, prediction: np.ndarray, truth: np.ndarray, source: str) -> tuple[np.ndarray, np.ndarray]:
        """(N,) float64 each, of the pixels that count."""
        limits = self.limits
        if limits.crop:
            size, window = CROPS[limits.crop]
            if truth.shape != size:
                raise ValueError(
                    f"TEST.DEPTH.CROP {limits.crop!r} is for depth of {size[0]} x {size[1]} pixels, but that of "
                    f"{source} is {truth.shape[0]} x {truth.shape[1]}; leave it empty"
                )
            prediction, truth = prediction[window], truth[window]
        chosen = np.isfinite(truth) & (truth > limits.closest)
        if limits.farthest:
            chosen &= truth < limits.farthest
        found, true = prediction[chosen].astype(np.float64), truth[chosen].astype(np.float64)
        if limits.closest or limits.farthest:
            found = np.clip(found, limits.closest, limits.farthest or np.inf)
        return found, true
