"""What a few seeds can say: mean, spread, paired differences and their interval, sign test, how many runs it takes.

Sources: Student's paired t interval; the exact sign test (ties are left out); Holm's step-down adjustment (1979); the
power of the t test by the noncentral t distribution. Quantiles are scipy's. Pure functions of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
ALPHA, POWER = 1 - CONFIDENCE, 0.8
MAX_RUNS = 100_000  # where the search for a sample size gives up


@dataclass(frozen=True)
class Summary:
    """Of one variant's values: n, mean, and the standard deviation over seeds (None for one seed)."""

    n: int
    mean: float | None
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """Of paired values, variant minus baseline.

    low, high: the 95 % interval of the mean; p_t: of the t test that the interval belongs to; None for fewer than two
    pairs. p_sign: of the two-sided exact sign test; None where every pair is a tie.
    higher, lower, ties: pairs in which the variant's value is higher, lower, the same.
    """

    n: int
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    p_t: float | None
    p_sign: float | None
    higher: int
    lower: int
    ties: int

    @property
    def half(self) -> float | None:
        """Of the interval: mean - half is low, mean + half is high. None where there is no interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def called(self) -> bool:
        """Whether a difference can be called: the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def summarize(values: Sequence[float]) -> Summary:
    """Mean and standard deviation (n - 1) of finite values."""
    _require_finite(values)
    n = len(values)
    return Summary(n, float(np.mean(values)) if n else None, float(np.std(values, ddof=1)) if n > 1 else None)


def paired_difference(differences: Sequence[float]) -> Difference:
    """differences: one per pair, variant minus baseline."""
    summary = summarize(differences)
    higher, lower = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p_sign = float(stats.binomtest(higher, higher + lower).pvalue) if higher + lower else None
    low = high = p_t = None
    if summary.mean is not None and summary.sd is not None:
        error = summary.sd / math.sqrt(summary.n)
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, summary.n - 1)) * error
        low, high = summary.mean - half, summary.mean + half
        if error:
            p_t = float(2 * stats.t.sf(abs(summary.mean) / error, summary.n - 1))
        else:  # the same difference for every seed
            p_t = 0.0 if summary.mean else 1.0
    ties = summary.n - higher - lower
    return Difference(summary.n, summary.mean, summary.sd, low, high, p_t, p_sign, higher, lower, ties)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: below ALPHA is significant though several comparisons were made."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return adjusted


def power(n: int, effect: float) -> float:
    """Of the two-sided paired t test with n pairs. effect: mean difference / its standard deviation."""
    critical, shift = float(stats.t.ppf(1 - ALPHA / 2, n - 1)), abs(effect) * math.sqrt(n)
    return float(stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift))


def runs_needed(sd: float, difference: float) -> int | None:
    """Pairs that detect `difference` with 80 % power at 5 %, where differences scatter by `sd`; None: over MAX_RUNS."""
    if sd < 0 or difference <= 0:
        raise ValueError(f"sd is {sd} and difference {difference}; the first is not negative, the second positive")
    if sd == 0:
        return 2
    effect = difference / sd
    # Of the normal approximation, the t test always takes a little more: a lower end to search from.
    quantiles = float(stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER))
    if effect < quantiles / math.sqrt(MAX_RUNS):
        return None
    n = max(2, math.ceil((quantiles / effect) ** 2))
    while power(n, effect) < POWER:
        n += 1
    return n


def _require_finite(values: Sequence[float]) -> None:
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"values must be finite, got {list(values)}")
