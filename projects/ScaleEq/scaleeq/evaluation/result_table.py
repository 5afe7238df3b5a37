"""Metrics as people read them: the dict of results in percent, and the table with what its numbers mean below it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from scaleeq.markdown import grid, text

from .confusion import ABSENT_POLICIES, Metrics, metrics_from_counts


def in_percent(metrics: Metrics, class_names: Sequence[str]) -> dict[str, float]:
    """Detectron2's names -> percent, NaN where undefined: the means, then IoU and accuracy of each class."""
    results = means_in_percent(metrics)
    for kind, values in (("IoU", metrics.iou), ("ACC", metrics.accuracy)):
        results |= {f"{kind}-{name}": 100 * float(value) for name, value in zip(class_names, values, strict=True)}
    return results


def means_in_percent(metrics: Metrics) -> dict[str, float]:
    """mIoU, fwIoU, mACC and pACC."""
    return {
        "mIoU": 100 * metrics.mean_iou,
        "fwIoU": 100 * metrics.frequency_weighted_iou,
        "mACC": 100 * metrics.mean_accuracy,
        "pACC": 100 * metrics.pixel_accuracy,
    }


def result_table(
    title: str,
    metrics: Metrics,
    confusion: np.ndarray,
    class_names: Sequence[str],
    *,
    absent: str,
    further: Sequence[Mapping[str, float]] = (),
    notes: Sequence[str] = (),
) -> str:
    """The table of classes, the means, and what they mean.

    confusion: (K, K) int64 at [truth, prediction], whose metrics these are, under the policy `absent`.
    further: metric -> percent, of each part; "<kind>-<class>" becomes a column. notes: lines about them.
    """
    means = means_in_percent(metrics)
    # Columns, and what stands below.
    by_class = columns_by_class({name: value for part in further for name, value in part.items()}, class_names)
    in_columns = {f"{kind}-{name}" for kind in by_class for name in class_names}
    below = [{name: value for name, value in part.items() if name not in in_columns} for part in further]
    no_truth, num_classes = int((confusion.sum(axis=1) == 0).sum()), len(class_names)
    background = "background is one" if "background" in class_names else "no background class"
    lines = [
        f"{title}, {num_classes} classes ({background}), in percent:",
        _class_table(metrics, confusion, class_names, by_class),
        *(", ".join(f"{name} {number(value)}" for name, value in row.items()) for row in (means, *below) if row),
        f"absent classes: {no_truth} of {num_classes} are in no truth. Policy {absent!r}: {ABSENT_POLICIES[absent]}",
    ]
    # The strictest mean, where it differs.
    strict = 100 * metrics_from_counts(confusion, absent="zero").mean_iou
    if no_truth and number(strict) != number(means["mIoU"]):
        lines.append(f"mIoU with each class in no truth as 0: {number(strict)}")
    return "\n".join([*lines, *notes])


def columns_by_class(further: Mapping[str, float], class_names: Sequence[str]) -> dict[str, list[float]]:
    """Kind -> a value of each class, NaN for classes without; of the kinds whose "<kind>-<name>" all name classes."""
    names: dict[str, set[str]] = {}
    for metric in further:
        kind, dash, name = metric.partition("-")
        if dash:
            names.setdefault(kind, set()).add(name)
    kinds = [kind for kind, named in names.items() if named <= set(class_names)]
    return {kind: [further.get(f"{kind}-{name}", math.nan) for name in class_names] for kind in kinds}


def number(value: float) -> str:
    """Two digits, or a dash where there is no number."""
    return "-" if math.isnan(value) else f"{value:.2f}"


def _class_table(
    metrics: Metrics, confusion: np.ndarray, class_names: Sequence[str], by_class: Mapping[str, Sequence[float]]
) -> str:
    share = 100 * confusion.sum(axis=1) / max(1, confusion.sum())
    columns = [100 * metrics.iou, 100 * metrics.accuracy, *by_class.values(), share]
    rows = [
        (text(name), *map(number, values)) for name, values in zip(class_names, zip(*columns, strict=True), strict=True)
    ]
    headers = ("class", "IoU", "accuracy", *by_class, "% of pixels")
    return grid(rows, headers, align="l" + "r" * len(columns))
