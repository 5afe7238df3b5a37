"""The sheets of one image: its prediction, and the maps of a model. Pure: arrays in, a picture out.

FaPN (arXiv 2108.07058) shows features before and after alignment, GSTO (arXiv 2005.13363) its gates over the image; the
fusions' branches are shown in the same way. Offsets are drawn as one arrow a place: the mean over groups and taps of
the kernel, weighted by their masks, from a pixel to where its value is taken from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from scaleeq.evaluation.confusion import ConfusionMatrix
from scaleeq.ops import resize
from scaleeq.pictures import UNKNOWN_COLOR, VOID_COLOR, blend, colorize
from scaleeq.probes.maps import FusionMaps
from scaleeq.tasks.views import TaskView

from .drawing import (
    arrow_scale,
    error_map,
    fitted,
    heat_ends,
    paint_arrows,
    paint_errors,
    paint_heat,
    resize_image,
    resize_labels,
)
from .layout import NO_LEGEND, Legend, Panel, Section, draw_sheet, number

STRUCTURE = ("fusions", "branches", "lateral", "transfer")
# The longer side of a panel, pixels: predictions; those of several tasks; gates, alignment; branches.
LARGE, MEDIUM, SMALL, TINY = 640, 512, 320, 240
BLANK = 244  # grey level of a panel of nothing


@dataclass(frozen=True)
class Classes:
    """What labels mean: name and (r, g, b) of 0..K-1, and the label of void."""

    names: Sequence[str]
    colors: Sequence[Sequence[int]]
    ignore_label: int = 255

    @classmethod
    def of(cls, metadata: Any) -> Classes:
        """Of a data set's metadata."""
        names, colors = (metadata.get(f"stuff_{what}") or () for what in ("classes", "colors"))
        return cls(names, colors, metadata.get("ignore_label", 255))


@dataclass(frozen=True)
class Seen:
    """An image and what is known of it.

    image: (H, W, 3) uint8 RGB. prediction, truth: (H, W) uint8 labels; None: there is none. maps: as capture_maps gives
    them; fusions: as capture_fusions. visible: the shares of height and width of those that are not padding. views:
    task -> its pictures, of other tasks than classes.
    """

    image: np.ndarray
    prediction: np.ndarray | None = None
    truth: np.ndarray | None = None
    maps: Mapping[str, torch.Tensor] | None = None
    fusions: Mapping[str, FusionMaps] | None = None
    visible: tuple[float, float] = (1.0, 1.0)
    views: Mapping[str, TaskView] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is predicted."""
        of = self.prediction
        if of is None:
            of = next((view.prediction for view in self.views.values()), self.image)
        return of.shape[0], of.shape[1]


@dataclass(frozen=True)
class Score:
    """Of one image, in percent, NaN where undefined."""

    mean_iou: float
    pixel_accuracy: float
    iou: np.ndarray

    def __str__(self) -> str:
        def percent(value: float) -> str:
            return "-" if np.isnan(value) else f"{value:.1f} %"

        return f"mIoU {percent(self.mean_iou)}, accuracy {percent(self.pixel_accuracy)}"


def score(seen: Seen, classes: Classes) -> Score | None:
    """The image's own score (classes that are in neither truth nor prediction are left out); None without truth."""
    if seen.truth is None or seen.prediction is None:
        return None
    confusion = ConfusionMatrix(num_classes=len(classes.names), ignore_label=classes.ignore_label)
    confusion.update(seen.prediction, seen.truth)
    metrics = confusion.metrics()
    return Score(100 * metrics.mean_iou, 100 * metrics.pixel_accuracy, 100 * metrics.iou)


def prediction_panels(seen: Seen, classes: Classes, side: int = LARGE) -> list[Panel]:
    """Image, truth, prediction, error; without truth image, prediction, both; without classes the image alone."""
    size = fitted(seen.size, side)
    if seen.prediction is None:
        return [Panel(resize_image(seen.image, size), "image")]
    return _label_panels(seen, seen.prediction, classes, size)


def view_panels(name: str, view: TaskView, size: tuple[int, int], *, blank: bool = False) -> list[Panel]:
    """A task's truth, where there is one, and prediction. blank: and a light panel where there is none."""
    pictures = {f"{name}, truth": view.truth, name: view.prediction}
    bar, unit = (None, "") if view.scale is None else ((view.scale.low, view.scale.high), view.scale.unit)
    panels = []
    for title, picture in pictures.items():
        if picture is not None:
            resized = resize_labels(picture, size) if view.scale is None else resize_image(picture, size)
            panels.append(Panel(resized, title, bar, unit))
        elif blank:
            panels.append(Panel(np.full((*size, 3), BLANK, np.uint8), f"{name}: no truth"))
    return panels


def _label_panels(seen: Seen, predicted: np.ndarray, classes: Classes, size: tuple[int, int]) -> list[Panel]:
    image, prediction = resize_image(seen.image, size), resize_labels(predicted, size)
    panels = [Panel(image, "image")]
    colored = Panel(colorize(prediction, classes.colors, classes.ignore_label), "prediction")
    if seen.truth is None:
        return [*panels, colored, Panel(blend(image, prediction, classes.colors), "prediction over the image")]
    # Errors are found at full size, and then made smaller.
    truth = resize_labels(seen.truth, size)
    errors = resize_labels(error_map(predicted, seen.truth, classes.ignore_label), size)
    return [
        *panels,
        Panel(colorize(truth, classes.colors, classes.ignore_label), "truth"),
        colored,
        Panel(paint_errors(image, errors), "errors red, void grey"),
    ]


def view_legends(seen: Sequence[Seen]) -> list[Legend]:
    """What colours of tasks beside classes mean, a legend each; the last one's last row is grey, where that occurs."""
    views = [(name, view) for each in seen for name, view in each.views.items()]
    tables = {name: view.legend for name, view in views if view.legend}
    found = [Legend([name], [*table.values()], [(word,) for word in table]) for name, table in tables.items()]
    if any(view.has_unknown for _, view in views):
        found.append(Legend(["maps"], [UNKNOWN_COLOR], [("unknown",)]))
    return found


def legend(seen: Sequence[Seen], classes: Classes, scores: Score | None = None) -> Legend:
    """The classes that occur in truth or prediction, by their area in both together; void last."""
    # Areas.
    predicted, true = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for each in seen:
        if each.prediction is None:
            continue
        predicted += np.bincount(each.prediction.ravel(), minlength=256)
        if each.truth is not None:
            true += np.bincount(each.truth.ravel(), minlength=256)
    areas = true + predicted
    if not predicted.any():
        return NO_LEGEND
    # Labels by area.
    order = [int(label) for label in np.argsort(-areas, kind="stable") if areas[label]]
    order = sorted(order, key=lambda label: label == classes.ignore_label)
    names = dict(enumerate(classes.names)) | {classes.ignore_label: "void"}
    colors = [VOID_COLOR if label == classes.ignore_label else classes.colors[label] for label in order]
    columns: dict[str, list[str]] = {"class": [names[label] for label in order]}
    if true.sum():
        columns["% of truth"] = [f"{100 * true[label] / true.sum():.1f}" for label in order]
    columns["% of prediction"] = [f"{100 * predicted[label] / predicted.sum():.1f}" for label in order]
    if scores is not None:
        known = [scores.iou[label] if label < len(scores.iou) else np.nan for label in order]
        columns["IoU"] = ["-" if np.isnan(value) else f"{value:.1f}" for value in known]
    return Legend(list(columns), colors, [*zip(*columns.values(), strict=True)])


def prediction_sheet(name: str, seen: Seen, classes: Classes) -> np.ndarray:
    """The sheet of an image's prediction: (H, W, 3) uint8."""
    scores = score(seen, classes)
    height, width = seen.size
    note = f"{width} x {height} pixels, {scores_in_words(seen, classes)}"
    legends = [legend([seen], classes, scores), *view_legends([seen])]
    return draw_sheet(name, prediction_sections(seen, classes), note=note, legends=legends)


def overlay(seen: Seen, classes: Classes) -> np.ndarray:
    """The prediction over the image: (H, W, 3) uint8; of a model without classes, the first of its other tasks."""
    if seen.prediction is not None:
        return blend(seen.image, seen.prediction, classes.colors)
    return next((view.prediction for view in seen.views.values()), seen.image)


def prediction_sections(seen: Seen, classes: Classes) -> list[Section]:
    """Rows of panels without a gap: each further task has a row, or a panel where nothing has a truth."""
    side = MEDIUM if seen.views else LARGE
    first = prediction_panels(seen, classes, side)
    rows = [view_panels(task, view, fitted(seen.size, side), blank=True) for task, view in seen.views.items()]
    if not rows:
        return [Section(first, columns=2 if len(first) == 4 else len(first))]
    if seen.truth is None and all(view.truth is None for view in seen.views.values()):
        panels = [*first, *(row[-1] for row in rows)]
        return [Section(panels, columns=_even_columns(len(panels)))]
    if len(first) == 4:
        return [Section([*first, *(panel for row in rows for panel in row)], columns=2)]
    classes_row = [Section(first, columns=3)] if len(first) == 3 else []
    return [*classes_row, *(Section([first[0], *row], columns=3) for row in rows)]


def scores_in_words(seen: Seen, classes: Classes) -> str:
    """The image's own scores, of classes and of other tasks; "no truth" without any."""
    known = [str(score(seen, classes) or ""), *(view.score for view in seen.views.values())]
    return ", ".join(each for each in known if each) or "no truth"


def overview_sheet(title: str, named: Mapping[str, Seen], classes: Classes, side: int = SMALL) -> np.ndarray:
    """The sheet of several images: (H, W, 3) uint8."""
    sections = [overview_section(name, seen, classes, side) for name, seen in named.items()]
    every = [*named.values()]
    return draw_sheet(title, sections, legends=[legend(every, classes), *view_legends(every)])


def overview_section(name: str, seen: Seen, classes: Classes, side: int) -> Section:
    """An image in a row; with further tasks beside classes in two, truths above predictions."""
    first = prediction_panels(seen, classes, side)
    rows = [view_panels(task, view, fitted(seen.size, side), blank=True) for task, view in seen.views.items()]
    if len(first) == 4 and rows:
        image, truth, prediction, errors = first
        above, below = [image, truth, *(row[0] for row in rows)], [errors, prediction, *(row[1] for row in rows)]
        return Section([*above, *below], columns=len(above), heading=name)
    shown = [panel for row, view in zip(rows, seen.views.values(), strict=True) for panel in row[view.truth is None :]]
    return Section([*first, *shown], columns=len(first) + len(shown), heading=name)


def _even_columns(count: int) -> int:
    """The most columns, four at most, that as many panels fill without a gap; all in one row where none do."""
    return next((columns for columns in (4, 3, 2) if count % columns == 0), count)


def gates_sheet(name: str, seen: Seen) -> np.ndarray:
    """The gates of a model over the image: (H, W, 3) uint8."""
    gates = {key: value for key, value in (seen.maps or {}).items() if value.shape[1] == 1 and not _of_aligned(key)}
    common, short = without_common(gates)
    image = _small(seen)
    panels = []
    for key, gate in gates.items():
        values = visible_map(gate, seen.visible, _size(image))[0]
        title = f"{_plain(short[key])}: mean {number(float(values.mean()))}"
        panels.append(Panel(paint_heat(values, heat_ends(values), image), title, heat_ends(values)))
    return draw_sheet(f"{name}: gates", [Section([Panel(image, "image"), *panels], columns=4)], note=common)


def alignment_sheet(name: str, seen: Seen) -> np.ndarray:
    """Every aligned transfer's map before and after, and its offsets over the image: (H, W, 3) uint8."""
    maps = seen.maps or {}
    names = [key.removesuffix(".offset") for key in maps if key.endswith(".offset")]
    common, short = without_common(names)
    image = _small(seen)
    sections = []
    for key in names:
        before, after = (
            visible_map(maps[f"{key}.{word}"], seen.visible, _size(image))[0] for word in ("before", "after")
        )
        height, width = maps[f"{key}.offset"].shape[-2:]
        panels = [
            Panel(paint_heat(before, heat_ends(before)), "before: upsampled", heat_ends(before)),
            Panel(paint_heat(after, heat_ends(after)), "after: aligned", heat_ends(after)),
            _offset_panel(maps[f"{key}.offset"], maps[f"{key}.mask"], seen.visible, image),
        ]
        sections.append(Section(panels, columns=3, heading=f"{short[key]} ({width} x {height})"))
    return draw_sheet(f"{name}: alignment", sections, note=common)


def features_sheet(name: str, seen: Seen) -> np.ndarray:
    """Every fusion's branches before and after their transfer, and what they become: (H, W, 3) uint8."""
    fusions = seen.fusions or {}
    common, short = without_common(fusions)
    sections = []
    for key, maps in fusions.items():
        columns = len(maps.before) + 1
        sources = [_heat_panel(branch, values, seen) for branch, values in maps.before.items()]
        fused = [] if maps.fused is None else [_heat_panel("fused", maps.fused, seen)]
        transferred = [_heat_panel(f"{branch} transferred", values, seen) for branch, values in maps.after.items()]
        sections += [Section(sources, columns, short[key]), Section([*transferred, *fused], columns)]
    note = f"{common} Root mean square over channels; the sizes of the maps are in brackets."
    return draw_sheet(f"{name}: branches of the fusions", sections, note=note)


SHEETS = {"gates": gates_sheet, "alignment": alignment_sheet, "features": features_sheet}


def visible_map(values: torch.Tensor, visible: tuple[float, float], size: tuple[int, int]) -> np.ndarray:
    """values: (1, C, h, w) over the padded image -> (C, *size) over the image, by nearest: its cells are seen."""
    whole = [max(side, round(side / share)) for side, share in zip(size, visible, strict=True)]
    return resize(values.float(), (whole[0], whole[1]), "nearest")[0, :, : size[0], : size[1]].cpu().numpy()


def mean_offsets(offset: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """offset: (1, 2 * G * 9, H, W), pairs of (dy, dx); mask: (1, G * 9, H, W) -> (1, 2, H, W), the weighted mean."""
    pairs = offset.float().unflatten(1, (-1, 2))
    weights = mask.float().unsqueeze(2)
    return (pairs * weights).sum(1) / weights.sum(1).clamp(min=1e-6)


def without_common(names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """What dotted names have in common at both ends, as a sentence ("" for nothing), and each name without it."""
    words = {name: name.split(".") for name in names}
    if not words:
        return "", {}
    longest = min(map(len, words.values())) - 1  # a word of each is left
    start = _num_shared([w[:longest] for w in words.values()])
    end = _num_shared([w[::-1][: longest - start] for w in words.values()])
    # What stands for the rest of each name.
    first = next(iter(words.values()))
    rest = [*first[:start], "*", *first[len(first) - end :]]
    common = f"Names are {'.'.join(rest)}." if len(rest) > 1 else ""
    return common, {name: ".".join(w[start : len(w) - end]) for name, w in words.items()}


def _num_shared(lists: Sequence[Sequence[str]]) -> int:
    """How many words all lists begin with."""
    columns = [len(set(column)) == 1 for column in zip(*lists, strict=False)]
    return columns.index(False) if False in columns else len(columns)


def _offset_panel(offset: torch.Tensor, mask: torch.Tensor, visible: tuple[float, float], image: np.ndarray) -> Panel:
    # How far the kernel looks, as heat.
    length = offset.float().unflatten(1, (-1, 2)).norm(dim=2).mean(dim=1, keepdim=True)
    lengths = visible_map(length, visible, _size(image))[0]
    ends = heat_ends(lengths)
    # Where to, as arrows: pixels of the map become pixels of the picture.
    sides = zip(_size(image), visible, offset.shape[-2:], strict=True)
    pixels = torch.tensor([size / share / side for size, share, side in sides], device=offset.device)  # of the picture
    arrows = visible_map(mean_offsets(offset, mask) * pixels[:, None, None], visible, _size(image))
    scale = arrow_scale(arrows)
    picture = paint_arrows(paint_heat(lengths, ends, image), arrows, scale)
    return Panel(picture, f"offsets, map pixels; arrows x {number(scale)}" if scale else "offsets, map pixels", ends)


def _heat_panel(title: str, values: torch.Tensor, seen: Seen) -> Panel:
    heat = visible_map(values, seen.visible, fitted(seen.size, TINY))[0]
    height, width = values.shape[-2:]
    return Panel(paint_heat(heat, heat_ends(heat)), f"{title} ({width} x {height})", heat_ends(heat))


def _plain(name: str) -> str:
    """The name without the words that say what a gate stands in."""
    return ".".join(word for word in name.split(".") if word not in STRUCTURE) or name


def _of_aligned(key: str) -> bool:
    return key.endswith((".offset", ".mask", ".before", ".after"))


def _small(seen: Seen) -> np.ndarray:
    return resize_image(seen.image, fitted(seen.size, SMALL))


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
