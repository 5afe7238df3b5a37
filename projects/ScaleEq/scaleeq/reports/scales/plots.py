"""A Fusion's scales as a picture: bars of standard deviation and gradient, a group for each branch. Own design."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from scaleeq.files import replacing

from .verdict import ratios

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLORS = {
    "before the transfer": "#a9c4e4",
    "after the transfer": "#1f4e79",
    "as it is": "#c9762b",
    "equalized": "#3d8b57",
}


def plot_fusion(fusion: Mapping[str, Any], path: Path) -> None:
    """fusion: one of scales.json's. Standard deviations and their prediction above, gradients of the weights below."""
    raw = fusion["raw"]["branches"]
    gradients = {"as it is": ratios(fusion["raw"], "weight_gradient")}
    if fusion["equalized"] not in (None, fusion["raw"]):
        gradients["equalized"] = ratios(fusion["equalized"], "weight_gradient")
    gradients = {label: values for label, values in gradients.items() if values}
    figure, axes = plt.subplots(
        2 if gradients else 1, 1, figsize=(max(5.0, 1.1 * len(raw) + 1.5), 4.6 if gradients else 2.6), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    stds = {
        "before the transfer": [branch["source_std"] for branch in raw.values()],
        "after the transfer": [branch["std"] for branch in raw.values()],
    }
    _groups(axes[0, 0], list(raw), stds)
    predicted = [branch.get("std_predicted", np.nan) for branch in raw.values()]
    if not np.isnan(predicted).all():
        axes[0, 0].plot(np.arange(len(raw)) + 0.2, predicted, "k_", markersize=16, mew=2, label="predicted")
    axes[0, 0].set_ylabel("standard deviation")
    axes[0, 0].set_title(fusion["title"], fontsize=11)
    if gradients:
        _groups(axes[1, 0], list(raw), gradients)
        axes[1, 0].axhline(1, color="gray", linewidth=0.8, linestyle=":")
        axes[1, 0].set_ylabel("gradient of weights,\nof the first branch's")
    for axis in axes[:, 0]:
        axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        axis.spines[["top", "right"]].set_visible(False)
    with replacing(path) as part:
        figure.savefig(part, dpi=130, format="png")
    plt.close(figure)


def _groups(axis: Any, names: list[str], series: Mapping[str, list[float]]) -> None:
    """A group of bars for each branch."""
    width = 0.8 / len(series)
    for index, (label, values) in enumerate(series.items()):
        positions = np.arange(len(names)) + (index - (len(series) - 1) / 2) * width
        axis.bar(positions, values, width, color=COLORS[label], label=label)
    axis.set_xticks(range(len(names)), names)
