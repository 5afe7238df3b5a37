"""The numbers of one metric of a comparison: each variant's, and its paired differences to its baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from scaleeq.records import Json

from .metrics import find_metric
from .statistics import ALPHA, Difference, holm, paired_difference, runs_needed, summarize

Content = Json  # of comparison.json, or of a part of it
BySeed = Mapping[int, float]
TARGETS = (0.1, 0.2, 0.4)  # differences whose number of runs is told, in the metric's unit
UNITS_OF_TARGETS = ("%", "degrees", "")  # in metres they would be others


def about_metric(name: str) -> Content:
    """Its name, unit and direction."""
    metric = find_metric(name)
    return {"metric": name, "unit": metric.unit, "higher_is_better": metric.higher_is_better}


def summary_of(values: BySeed) -> Content:
    """n, mean and sd of one variant."""
    return dataclasses.asdict(summarize(list(values.values())))


def compare_pairs(values: Mapping[str, BySeed], baselines: Mapping[str, str], metric: str) -> dict[str, Content]:
    """Variant -> its difference to its baseline, over the seeds that both have.

    values: variant -> its values; baselines: variant -> another one.
    """
    pairs = {}
    for name, baseline in baselines.items():
        if name in values and baseline in values:
            others = values[baseline]
            own = {seed: value - others[seed] for seed, value in values[name].items() if seed in others}
            pairs[name] = (baseline, own)
    return compared(pairs, metric)


def compared(pairs: Mapping[str, tuple[str, BySeed]], metric: str) -> dict[str, Content]:
    """Variant -> what its differences say. pairs: variant -> its baseline, and the differences by seed."""
    found = find_metric(metric)
    differences = {name: paired_difference(list(of.values())) for name, (_, of) in pairs.items()}
    adjusted = holm({name: of.p_t for name, of in differences.items() if of.p_t is not None})
    return {
        name: {
            "baseline": pairs[name][0],
            "by_seed": {str(seed): value for seed, value in pairs[name][1].items()},
            **dataclasses.asdict(of),
            "called": of.called,
            "better": (of.mean > 0) == found.higher_is_better if of.called and of.mean is not None else None,
            "p_holm": adjusted.get(name),
            "called_holm": adjusted[name] < ALPHA if name in adjusted else False,
            "runs_needed": _runs_needed(of) if found.unit in UNITS_OF_TARGETS else {},
        }
        for name, of in differences.items()
    }


def _runs_needed(difference: Difference) -> dict[str, int | None]:
    """Difference -> how many pairs would detect it, given how much these scatter; {} where that is not known."""
    if not difference.sd:
        return {}
    return {str(target): runs_needed(difference.sd, target) for target in TARGETS}
