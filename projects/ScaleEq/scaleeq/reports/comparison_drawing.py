"""The drawings of a comparison, as SVG: curves with the band of seeds, and the paired differences with their intervals.

Drawn about as wide as a phone's screen, so that their text stays legible there; desktops show several in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .html import Content
from .style import CALLED, MEAN, ONE_SEED, RULE, drawing, look, plain, to_svg, write_figures

Points = Sequence[Sequence[float]]

WIDTH_IN, HEIGHT_IN = 4.4, 3.1
NAME = 24  # letters of a variant's name in a drawing; the page has all of them
LOG_FACTOR = 10  # losses that differ by more are drawn on a logarithmic axis


def band(curves: Sequence[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Iterations that all curves have, and there the mean, least and largest value: each (N,)."""
    tables = [{int(iteration): value for iteration, value in points} for points in curves]
    shared = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    if not shared:
        return (np.empty(0),) * 4
    values = np.array([[table[iteration] for iteration in shared] for table in tables])
    return np.array(shared), values.mean(0), values.min(0), values.max(0)


def draw_curves(content: Content, key: str, label: str, *, paths: Sequence[Path] = ()) -> str:
    """SVG: of each variant, the mean over seeds and the band from the least to the largest.

    key: "curve" or "loss" of each run. paths: where the figure is written, too; the suffix says of what kind.
    """
    with drawing(WIDTH_IN, HEIGHT_IN, axes_grid_axis="both") as (figure, [axis]):
        shown = {
            name: [run[key] for run in of["runs"].values() if run[key]] for name, of in content["variants"].items()
        }
        for index, (name, curves) in enumerate(shown.items()):
            if not curves:  # not run, or without this metric
                continue
            # A line, and the band of its seeds.
            iterations, mean, least, most = band(curves)
            axis.plot(
                iterations,
                mean,
                label=plain(name, longest=NAME),
                linewidth=1.4,
                marker="o",
                markersize=2.5,
                **look(index),
            )
            axis.fill_between(iterations, least, most, color=look(index)["color"], alpha=0.15, linewidth=0)
        axis.set_xlabel("iteration")
        axis.set_ylabel(plain(label))
        if key == "loss" and 0 < LOG_FACTOR * axis.dataLim.y0 < axis.dataLim.y1:
            axis.set_yscale("log")
        # The legend below needs room where there are many.
        num = sum(map(bool, shown.values()))
        figure.legend(loc="outside lower center", ncols=2 if num > 3 else num)
        if num > 6:
            figure.set_figheight(HEIGHT_IN + 0.16 * (num - 6))
        svg = to_svg(figure)
        write_figures(figure, paths)
        return svg


def draw_differences(content: Content, *, paths: Sequence[Path] = ()) -> str:
    """SVG: a row a compared variant: a dot for each seed, and the mean with its interval.

    paths: where the figure is written, too; the suffix says of what kind.
    """
    names = list(content["comparisons"])
    baselines = {name: compared["baseline"] for name, compared in content["comparisons"].items()}
    with drawing(WIDTH_IN, 1.1 + 0.45 * len(names), axes_grid_axis="x") as (figure, [axis]):
        axis.axvline(0, color=RULE, linewidth=1)
        for row, name in enumerate(names):
            compared = content["comparisons"][name]
            # A dot each seed, then the mean and its interval.
            values = list(compared["by_seed"].values())
            axis.plot(values, [row + 0.16] * len(values), "o", color=ONE_SEED, markersize=3.5, alpha=0.8)
            if compared["mean"] is not None:
                color = CALLED if compared["called"] else MEAN
                axis.plot([compared["mean"]], [row - 0.08], "D", color=color, markersize=5)
                if compared["low"] is not None:
                    axis.plot([compared["low"], compared["high"]], [row - 0.08] * 2, color=color, linewidth=2)
        axis.set_yticks(
            range(len(names)),
            ["\nagainst ".join(plain(n, longest=NAME) for n in (name, baselines[name])) for name in names],
            fontsize=8,
        )
        axis.set_ylim(len(names) - 0.5, -0.5)
        lower = "" if content.get("higher_is_better", True) else " (lower is better)"
        axis.set_xlabel(plain(f"difference of {content['metric']}{lower}"))
        svg = to_svg(figure)
        write_figures(figure, paths)
        return svg
