"""A contact sheet: images beside their labels in colour, with the names of the classes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from scaleeq.data.reading import has_labels, read_image, read_labels
from scaleeq.data.sets.catalog import Record
from scaleeq.files import replacing
from scaleeq.pictures import colorize

MAX_NAMES = 48


def draw_contact_sheet(
    records: Sequence[Record],
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    ignore_label: int,
    title: str = "",
) -> None:
    """Write a PNG with each record's image and labels, two records a row; a file that cannot be read is told there."""
    # Two records a row, each an image and its labels.
    rows = max(1, (len(records) + 1) // 2)
    figure = Figure(figsize=(12, 2.6 * rows + 1.2), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False)
    pixels = np.zeros(256, np.int64)
    for (left, right), record in zip(axes.reshape(-1, 2), records, strict=False):
        left.set_title(os.path.basename(record["file_name"]), fontsize=8)
        image, labels = _read(left, read_image, record), None
        if image is not None:
            left.imshow(image)
        if has_labels(record):
            labels = _read(right, read_labels, record)
        if labels is not None:
            right.imshow(colorize(labels, colors, ignore_label))
            pixels += np.bincount(labels.ravel(), minlength=256)
    for axis in axes.flat:
        axis.set_axis_off()
    # The classes that were seen.
    patches = _legend(pixels, classes, colors, ignore_label)
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    with replacing(path) as part:
        figure.savefig(part, dpi=100, format="png")


def _read(axis: Axes, read: Callable[[Record], np.ndarray], record: Record) -> np.ndarray | None:
    """What `read` gives; where it cannot, its message is written on the axis."""
    try:
        return read(record)
    except (OSError, ValueError) as error:
        axis.text(0.5, 0.5, textwrap.fill(str(error), 40), ha="center", va="center", fontsize=7, color="red")
        return None


def _legend(
    pixels: np.ndarray, classes: Sequence[str], colors: Sequence[Sequence[int]], ignore_label: int
) -> list[Patch]:
    """The labels that are shown, largest share first, the largest MAX_NAMES alone."""
    shown = [int(label) for label in np.argsort(-pixels, kind="stable") if pixels[label]][:MAX_NAMES]
    names = dict(enumerate(classes)) | {ignore_label: "void"}
    table = colorize(np.arange(256, dtype=np.uint8)[None], colors, ignore_label)[0] / 255
    return [Patch(color=table[label], label=f"{label} {names.get(label, 'no class')}") for label in shown]
