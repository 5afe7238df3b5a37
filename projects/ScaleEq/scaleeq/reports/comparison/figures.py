"""The drawings of a comparison, as SVG: curves with the band of seeds, and the paired differences with their intervals.

Drawn about as wide as a phone's screen, so that their text stays legible there; desktops show several in a row.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Content = Mapping[str, Any]
Points = Sequence[Sequence[float]]

WIDTH_IN, HEIGHT_IN = 4.4, 3.1
STYLE: Any = {
    "font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "scaleeq",
    "axes.grid": True, "grid.color": "#e4e4e4", "axes.axisbelow": True,
}  # fmt: skip
NUM_COLORS = 10
LOG_FACTOR = 10  # losses that differ by more are drawn on a logarithmic axis


def band(curves: Sequence[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Iterations that all curves have, and there the mean, least and largest value: each (N,)."""
    tables = [{int(iteration): value for iteration, value in points} for points in curves]
    shared = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    if not shared:
        return (np.empty(0),) * 4
    values = np.array([[table[iteration] for iteration in shared] for table in tables])
    return np.array(shared), values.mean(0), values.min(0), values.max(0)


def draw_curves(content: Content, key: str, label: str) -> str:
    """SVG: of each variant, the mean over seeds and the band from the least to the largest.

    key: "curve" or "loss" of each run.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        for index, (name, variant) in enumerate(content["variants"].items()):
            iterations, mean, least, most = band([run[key] for run in variant["runs"].values() if run[key]])
            color, line = f"C{index % NUM_COLORS}", ("-", "--", ":")[index // NUM_COLORS % 3]
            axes.plot(iterations, mean, line, label=plain(name), linewidth=1.4, marker="o", markersize=2.5, color=color)
            axes.fill_between(iterations, least, most, color=color, alpha=0.15, linewidth=0)
        axes.set_xlabel("iteration")
        axes.set_ylabel(plain(label))
        if key == "loss" and 0 < LOG_FACTOR * axes.dataLim.y0 < axes.dataLim.y1:
            axes.set_yscale("log")
        num = len(content["variants"])
        figure.legend(loc="outside lower center", ncols=2 if num > 3 else num, frameon=False, fontsize=8)
        if num > 6:
            figure.set_figheight(HEIGHT_IN + 0.16 * (num - 6))
        return _svg(figure)


def draw_differences(content: Content) -> str:
    """SVG: a row a compared variant: a dot for each seed, and the mean with its interval."""
    names = list(content["comparisons"])
    with plt.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure, axes = plt.subplots(figsize=(WIDTH_IN, 1.1 + 0.45 * len(names)), layout="constrained")
        axes.axvline(0, color="#555555", linewidth=1)
        for row, name in enumerate(names):
            compared = content["comparisons"][name]
            values = list(compared["by_seed"].values())
            axes.plot(values, [row + 0.16] * len(values), "o", color="#8a8a8a", markersize=3.5, alpha=0.8)
            if compared["mean"] is not None:
                color = "#b3261e" if compared["called"] else "#1f4e79"
                axes.plot([compared["mean"]], [row - 0.08], "D", color=color, markersize=5)
                if compared["low"] is not None:
                    axes.plot([compared["low"], compared["high"]], [row - 0.08] * 2, color=color, linewidth=2)
        axes.set_yticks(
            range(len(names)),
            [plain(f"{name}\nagainst {content['comparisons'][name]['baseline']}") for name in names],
            fontsize=8,
        )
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(plain(f"difference of {content['metric']}"))
        return _svg(figure)


def plain(words: str) -> str:
    """Words as matplotlib shows them unchanged: no formula between dollars, and no legend's entry is hidden."""
    return ("\N{ZERO WIDTH SPACE}" if words.startswith("_") else "") + words.replace("$", r"\$")


def _svg(figure: Any) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = file.getvalue()
    return text[text.index("<svg") :]
