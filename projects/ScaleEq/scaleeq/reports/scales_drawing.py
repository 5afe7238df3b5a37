"""Scales of branches as drawings: of one Fusion with its gradients; of a run at its start and end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .html import Content
from .scales_verdict import ratios
from .style import PALETTE, RULE, SERIES, drawing, grouped_bars, plain, write_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BRANCH_IN = 1.1  # inches of a branch's bars


def draw_fusion(fusion: Content, paths: Sequence[Path]) -> None:
    """Standard deviations and their prediction above, gradients of the weights below.

    fusion: one of scales.json's. paths: the suffix of each says of what kind the file is.
    """
    # What there is to show.
    raw = fusion["raw"]["branches"]
    stds = {
        "before the transfer": {name: branch["source_std"] for name, branch in raw.items()},
        "after the transfer": {name: branch["std"] for name, branch in raw.items()},
    }
    gradients = {"as it is": ratios(fusion["raw"], "weight_gradient")}
    if fusion["equalized"] not in (None, fusion["raw"]):
        gradients["equalized"] = ratios(fusion["equalized"], "weight_gradient")
    shown = {label: dict(zip(raw, values, strict=True)) for label, values in gradients.items() if values}
    width, height = max(5.0, BRANCH_IN * len(raw) + 1.5), 4.6 if shown else 2.6
    # Deviations above.
    with drawing(width, height, rows=2 if shown else 1) as (figure, axes):
        grouped_bars(axes[0], stds, SERIES)
        predicted = [branch.get("std_predicted") for branch in raw.values()]
        known = [(place + 0.2, value) for place, value in enumerate(predicted) if value is not None]
        if known:
            axes[0].plot(*zip(*known, strict=True), "k_", markersize=16, mew=2, label="predicted")
        axes[0].set_ylabel("standard deviation")
        axes[0].set_title(plain(fusion["title"]))
        # Gradients below.
        if shown:
            grouped_bars(axes[1], shown, SERIES)
            axes[1].axhline(1, color=RULE, linewidth=0.8, linestyle=":")
            axes[1].set_ylabel("gradient of weights,\nof the first branch's")
        for axis in axes:
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
        write_figures(figure, paths)


def branch_scales(statistics: Content) -> dict[str, dict[str, dict[str, float]]]:
    """fusion -> series -> branch -> standard deviation, from the content of scale_statistics.json.

    Series: before equalization and after it, as measured in the first iteration of training and in the last; each
    where the file has it.
    """
    scales: dict[str, dict[str, dict[str, float]]] = {}
    for key, time in (("at_start", "first iteration"), ("at_end", "last iteration")):
        for fusion, content in statistics.get(key, {}).get("fusions", {}).items():
            for name, std in (("before", "std"), ("after", "std_equalized")):
                values = {branch: record[std] for branch, record in content["branches"].items() if std in record}
                if values:
                    scales.setdefault(fusion, {})[f"{name}, {time}"] = values
    return scales


def plot_branch_scales(statistics: Content, paths: Sequence[Path]) -> None:
    """One panel per fusion, one group of bars per branch; of the equalized fusions alone, where there are any.

    paths: the suffix of each says of what kind the file is.
    """
    with branch_scales_figure(branch_scales(statistics)) as figure:
        write_figures(figure, paths)


def latest_scales(statistics: Content) -> dict[str, dict[str, dict[str, float]]]:
    """As branch_scales, of a run that goes on: the last record of its history in the place of its end."""
    history = statistics.get("history", [])
    if not history or history[-1]["iteration"] == statistics.get("at_start", {}).get("iteration"):
        return branch_scales(statistics)
    scales = branch_scales({**statistics, "at_end": history[-1]})
    now = f"iteration {history[-1]['iteration']}"
    return {
        fusion: {label.replace("last iteration", now): values for label, values in series.items()}
        for fusion, series in scales.items()
    }


@contextmanager
def branch_scales_figure(scales: dict[str, dict[str, dict[str, float]]]) -> Iterator[Figure]:
    """The figure of plot_branch_scales. scales: as branch_scales has them."""
    # Fusions without equalizers are shown where there are no others.
    equalized = {fusion: series for fusion, series in scales.items() if any("after" in label for label in series)}
    scales = equalized or scales
    labels = list(dict.fromkeys(label for series in scales.values() for label in series))
    colors = dict(zip(labels, PALETTE, strict=False))
    with drawing(7.5, 2.8 * len(scales), rows=len(scales)) as (figure, axes):
        for axis, (fusion, series) in zip(axes, scales.items(), strict=True):
            grouped_bars(axis, series, colors)
            axis.axhline(1.0, color=RULE, linewidth=0.8, linestyle=":")
            axis.set_title(plain(fusion))
            axis.set_ylabel("standard deviation")
        # One legend for all panels.
        handles = {label: bar for axis in axes for bar, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(
            [handles[label] for label in labels], labels, loc="outside lower center", ncols=4, title="equalization"
        )
        yield figure
