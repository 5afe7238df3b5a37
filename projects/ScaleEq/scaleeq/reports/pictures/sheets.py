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
from scaleeq.pictures import VOID_COLOR, blend, colorize
from scaleeq.probes.maps import FusionMaps

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
LARGE, SMALL, TINY = 640, 320, 240  # the longer side of a panel, pixels: predictions; gates, alignment; branches


@dataclass(frozen=True)
class Classes:
    """What labels mean: name and (r, g, b) of 0..K-1, and the label of void."""

    names: Sequence[str]
    colors: Sequence[Sequence[int]]
    ignore_label: int = 255

    @classmethod
    def of(cls, metadata: Any) -> Classes:
        """Of a data set's metadata."""
        names, colors = metadata.get("stuff_classes") or [], metadata.get("stuff_colors") or []
        return cls(names, colors, metadata.get("ignore_label", 255))


@dataclass(frozen=True)
class Seen:
    """An image and what is known of it.

    image: (H, W, 3) uint8 RGB. prediction, truth: (H, W) uint8 labels; None: there is none. maps: as capture_maps gives
    them; fusions: as capture_fusions. visible: the shares of height and width of those that are not padding. pictures:
    title -> (H, W, 3) uint8, of other tasks than classes.
    """

    image: np.ndarray
    prediction: np.ndarray | None = None
    truth: np.ndarray | None = None
    maps: Mapping[str, torch.Tensor] | None = None
    fusions: Mapping[str, FusionMaps] | None = None
    visible: tuple[float, float] = (1.0, 1.0)
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what is predicted."""
        of = self.prediction if self.prediction is not None else self.image
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
    """Image, truth, prediction, error; without truth image, prediction, both; then those of other tasks."""
    size = fitted(seen.size, side)
    others = [Panel(resize_image(picture, size), title) for title, picture in seen.pictures.items()]
    if seen.prediction is None:
        return [Panel(resize_image(seen.image, size), "image"), *others]
    return [*_label_panels(seen, seen.prediction, classes, size), *others]


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
    panels, scores = prediction_panels(seen, classes), score(seen, classes)
    height, width = seen.size
    known = f", {scores}" if scores else "" if seen.prediction is None else ", no truth"
    note = f"{width} x {height} pixels{known}"
    return draw_sheet(name, [Section(panels, columns=2)], note=note, legend=legend([seen], classes, scores))


def overview_sheet(title: str, named: Mapping[str, Seen], classes: Classes, side: int = SMALL) -> np.ndarray:
    """The sheet of several images, a row each: (H, W, 3) uint8."""
    sections = []
    for name, seen in named.items():
        panels = prediction_panels(seen, classes, side)
        sections.append(Section(panels, columns=len(panels), heading=name))
    return draw_sheet(title, sections, legend=legend([*named.values()], classes))


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
