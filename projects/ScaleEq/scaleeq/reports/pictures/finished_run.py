"""Two pictures of a finished run: predictions beside the truth, and every branch's scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from scaleeq.engine import CfgNode
from scaleeq.pictures import write_png

from .sheets import overview_sheet
from .sources import ModelPredictions, dataset_images

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Patch


def plot_predictions(cfg: CfgNode, weights: str, path: Path, *, num_images: int = 4) -> None:
    """Rows of image, truth, prediction and error for images of DATASETS.TEST[0], with a legend of the classes."""
    look = ModelPredictions(cfg, weights)
    images = dataset_images(cfg.DATASETS.TEST[0], num=num_images)
    seen = {name: look(record) for name, record in images.items()}
    write_png(path, overview_sheet(cfg.DATASETS.TEST[0], seen, look.classes))


def branch_scales(statistics: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
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


def plot_branch_scales(statistics: Mapping[str, Any], path: Path) -> None:
    """One panel per fusion, one group of bars per branch; of the equalized fusions alone, where there are any."""
    scales = branch_scales(statistics)
    equalized = {fusion: series for fusion, series in scales.items() if any("after" in label for label in series)}
    scales = equalized or scales
    labels = list(dict.fromkeys(label for series in scales.values() for label in series))
    figure, axes = plt.subplots(len(scales), 1, figsize=(7.5, 2.8 * len(scales)), squeeze=False, layout="constrained")
    for axis, (fusion, series) in zip(axes[:, 0], scales.items(), strict=True):
        branches = list(dict.fromkeys(branch for values in series.values() for branch in values))
        width = 0.8 / len(series)
        for index, (label, values) in enumerate(series.items()):
            positions = np.arange(len(branches)) + (index - (len(series) - 1) / 2) * width
            heights = [values.get(branch, 0.0) for branch in branches]
            axis.bar(positions, heights, width, color=f"C{labels.index(label)}")
        axis.set_xticks(range(len(branches)), branches)
        axis.axhline(1.0, color="gray", linewidth=0.8, linestyle=":")
        axis.set_title(fusion)
        axis.set_ylabel("standard deviation")
    patches = [Patch(color=f"C{index}", label=label) for index, label in enumerate(labels)]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize="small", title="equalization")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
