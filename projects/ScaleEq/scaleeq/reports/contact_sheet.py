"""A contact sheet: images beside their labels in colour and their maps of other tasks, with what the colours mean."""

from __future__ import annotations

import functools
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from scaleeq.data.maps import KEYS, has_map, read_map
from scaleeq.data.reading import has_labels, read_image, read_labels
from scaleeq.data.sets.catalog import Record
from scaleeq.pictures import UNKNOWN_COLOR, colorize, nice_end, write_png
from scaleeq.tasks import TASKS, DepthTask, Task

from .pictures.drawing import fitted, resize_image, resize_labels
from .pictures.layout import Legend, Panel, Section, draw_sheet

MAX_NAMES = 48
SIDE = 300  # the longer side of a panel, pixels
FAR_PERCENT = 98.0  # of the known depth lies below the end of its colours; a sensor has outliers
RED = (200, 30, 30)


@dataclass
class _Found:
    """What the records that are shown hold. pixels: (256,) of each label."""

    maps: dict[str, Task] = field(default_factory=dict)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    has_unknown: bool = False


def draw_contact_sheet(
    records: Sequence[Record],
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    ignore_label: int,
    title: str = "",
) -> None:
    """Write a PNG with each record's image, labels and maps; a file that cannot be read is told there.

    Labels alone: two records a row. Depth has one range for the whole sheet.
    """
    found = _Found(_tasks_of(records))
    rows = [_panels(record, found, colors, ignore_label) for record in records]
    if found.maps:
        sections = [
            Section(row, len(row), os.path.basename(record["file_name"]))
            for record, row in zip(records, rows, strict=True)
        ]
    else:
        for record, row in zip(records, rows, strict=True):
            row[0] = Panel(row[0].picture, os.path.basename(record["file_name"]))
        sections = [Section([panel for row in rows for panel in row], 2 * max(map(len, rows), default=1))]
    legends = [_class_legend(found.pixels, classes, colors, ignore_label)]
    legends += [
        Legend([key], [*task.legend().values()], [(word,) for word in task.legend()])
        for key, task in found.maps.items()
    ]
    if found.has_unknown:
        legends.append(Legend(["maps"], [UNKNOWN_COLOR], [("unknown",)]))
    write_png(str(path), draw_sheet(title, sections, legends=legends))


def _tasks_of(records: Sequence[Record]) -> dict[str, Task]:
    """The task of each map that a record has, which draws it."""
    farthest = [0.0]
    for record in records:
        depth = _read(functools.partial(read_map, record, "depth"))
        if isinstance(depth, np.ndarray) and depth.any():
            farthest.append(float(np.percentile(depth[depth > 0], FAR_PERCENT)))
    found: dict[str, Task] = {}
    for key in KEYS:
        if any(has_map(record, key) for record in records):
            far = max(farthest)
            found[key] = DepthTask(farthest=nice_end(far) if far > 0 else 0.0) if key == "depth" else TASKS[key]()
    return found


def _panels(record: Record, found: _Found, colors: Sequence[Sequence[int]], ignore_label: int) -> list[Panel]:
    """Image, labels and each map of the sheet; what there is not is told in its place."""
    image = _read(functools.partial(read_image, record))
    size = fitted(image.shape[:2], SIDE) if isinstance(image, np.ndarray) else (SIDE * 3 // 4, SIDE)
    panels = [Panel(resize_image(image, size) if isinstance(image, np.ndarray) else _message(image, size), "image")]
    # Labels.
    if has_labels(record) or not found.maps:
        labels = _read(functools.partial(read_labels, record)) if has_labels(record) else "no labels"
        if isinstance(labels, np.ndarray):
            found.pixels += np.bincount(labels.ravel(), minlength=256)
            panels.append(Panel(resize_labels(colorize(labels, colors, ignore_label), size), "labels"))
        else:
            panels.append(Panel(_message(labels, size), "labels"))
    # Maps.
    for key, task in found.maps.items():
        values = _read(functools.partial(read_map, record, key))
        if not isinstance(values, np.ndarray):
            panels.append(Panel(_message(values or f"no {key}", size), key))
            continue
        picture = task.picture(torch.from_numpy(values.transpose(2, 0, 1) if values.ndim == 3 else values))
        found.has_unknown |= bool((picture == UNKNOWN_COLOR).all(-1).any())
        scale = task.scale
        bar, unit = (None, "") if scale is None else ((scale.low, scale.high), scale.unit)
        panels.append(Panel(resize_labels(picture, size), key, bar, unit))
    return panels


def _read(read: Callable[[], np.ndarray | None]) -> np.ndarray | str | None:
    """What `read` gives; its message where it cannot."""
    try:
        return read()
    except (OSError, ValueError) as error:
        return str(error)


def _message(text: str | None, size: tuple[int, int]) -> np.ndarray:
    """A white panel with words in red: (*size, 3)."""
    picture = Image.new("RGB", size[::-1], (255, 255, 255))
    lines = textwrap.wrap(text or "", max(12, size[1] // 7), break_long_words=True)
    ImageDraw.Draw(picture).text((6, 6), "\n".join(lines), RED, ImageFont.load_default(11))
    return np.asarray(picture)


def _class_legend(
    pixels: np.ndarray, classes: Sequence[str], colors: Sequence[Sequence[int]], ignore_label: int
) -> Legend:
    """The labels that are shown, largest share first, the largest MAX_NAMES alone."""
    shown = [int(label) for label in np.argsort(-pixels, kind="stable") if pixels[label]][:MAX_NAMES]
    names: Mapping[int, str] = dict(enumerate(classes)) | {ignore_label: "void"}
    table = colorize(np.arange(256, dtype=np.uint8)[None], colors, ignore_label)[0]
    return Legend(
        ["labels"], [table[label] for label in shown], [(f"{label} {names.get(label, 'no class')}",) for label in shown]
    )
