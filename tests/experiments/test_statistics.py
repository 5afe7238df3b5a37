"""Statistics of a comparison. Oracles: scipy's t test, Student's printed table, binomial sums by hand, Holm's rule by
hand, the sample sizes that G*Power prints, and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from scaleeq.experiments.statistics import holm, paired_difference, power, runs_needed, summarize


def test_summary_by_hand():
    assert summarize([1.0, 2.0, 6.0]) == (summarize([6.0, 1.0, 2.0]))
    summary = summarize([1.0, 2.0, 6.0])
    assert (summary.n, summary.mean) == (3, 3.0)
    assert summary.sd == pytest.approx(math.sqrt(7))  # (4 + 1 + 9) / 2
    assert summarize([5.0]).sd is None and summarize([]).mean is None


@pytest.mark.parametrize(("n", "quantile"), [(2, 12.706), (5, 2.776), (10, 2.262), (30, 2.045)])  # Student's table
def test_interval_of_the_table(n, quantile):
    differences = [1.0 + (-1) ** index for index in range(n)]
    found = paired_difference(differences)
    half = quantile * np.std(differences, ddof=1) / math.sqrt(n)
    assert found.high - found.mean == pytest.approx(half, rel=1e-3)
    assert found.mean - found.low == pytest.approx(half, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_t_interval_and_test_are_those_of_scipy(seed):
    first, second = np.random.default_rng(seed).normal((1.0, 0.3), 1.0, (7, 2)).T
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    found = paired_difference((first - second).tolist())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-10)
    assert found.p_t == pytest.approx(expected.pvalue, rel=1e-10)
    assert found.called == (expected.pvalue < 0.05)


@pytest.mark.parametrize(
    ("signs", "p"),
    [
        ([1] * 5, 2 / 32),
        ([1] * 6, 2 / 64),
        ([1] * 9 + [-1], 2 * 11 / 1024),
        ([1, -1], 1.0),
        ([1, 1, 1, 0, 0], 2 / 8),  # ties are left out
    ],
)
def test_sign_test_by_hand(signs, p):
    found = paired_difference([float(sign) for sign in signs])
    assert found.p_sign == pytest.approx(p)
    assert (found.higher, found.lower, found.ties) == (signs.count(1), signs.count(-1), signs.count(0))


def test_what_cannot_be_judged():
    assert not paired_difference([]).called and paired_difference([]).p_sign is None
    one = paired_difference([3.0])
    assert (one.low, one.high, one.p_t, one.called) == (None, None, None, False)
    same = paired_difference([0.0, 0.0, 0.0])
    assert (same.low, same.high, same.p_t, same.p_sign, same.called) == (0.0, 0.0, 1.0, None, False)
    constant = paired_difference([0.5, 0.5])
    assert constant.called and constant.p_t == 0.0
    with pytest.raises(ValueError, match="finite"):
        paired_difference([1.0, math.nan])


def test_holm_by_hand():
    """Four comparisons: 4 x 0.01, 3 x 0.013, 2 x 0.03, 1 x 0.04, each at least the one before."""
    adjusted = holm({"c": 0.03, "a": 0.01, "d": 0.04, "b": 0.013})
    assert adjusted == pytest.approx({"a": 0.04, "b": 0.04, "c": 0.06, "d": 0.06})
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])  # G*Power, paired, 5 %, 80 %
def test_runs_needed_are_those_of_g_power(effect, n):
    assert runs_needed(2.0, 2.0 * effect) == n
    assert power(n, effect) >= 0.8 > power(n - 1, effect)


def test_power_is_that_of_a_simulation():
    draws = np.random.default_rng(0).normal(0.9, 1.0, (20_000, 6))
    share = (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean()
    assert power(6, 0.9) == pytest.approx(share, abs=0.012)  # three standard errors


def test_runs_needed_at_the_ends():
    assert runs_needed(0.0, 0.1) == 2
    assert runs_needed(1.0, 1e-6) is None
    with pytest.raises(ValueError, match="positive"):
        runs_needed(1.0, 0.0)
