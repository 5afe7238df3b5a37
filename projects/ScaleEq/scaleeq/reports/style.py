"""How drawings of lines and bars look: one style, colours that the colour-blind tell apart, files that scale.

Figures are made without pyplot: neither its list of figures nor the backend that a user has chosen is touched, and
matplotlib is imported where something is drawn, no sooner. Colours: M. Okabe and K. Ito, Color Universal Design (2008).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleeq.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = "#0072b2", "#d55e00", "#009e73", "#e69f00", "#56b4e9", "#cc79a7"
PALETTE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
LINES = ("-", "--", ":")  # beyond the palette, colours come again with another line
KINDS = ("svg", "png", "pdf")  # of files of a figure
LONGEST = 60  # letters of a line in a drawing
MEAN, CALLED, ONE_SEED, RULE = BLUE, VERMILION, "#8a8a8a", "#555555"

# What a series of numbers is, on pages and in drawings -> its colour.
SERIES = {
    "before the transfer": SKY,
    "after the transfer": BLUE,
    "as it is": ORANGE,
    "equalized": GREEN,
}

STYLE: Any = {
    "font.size": 9.0, "legend.fontsize": 8.0, "legend.frameon": False, "axes.titlesize": 11.0,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": "#e4e4e4", "axes.axisbelow": True, "savefig.dpi": 130, "svg.hashsalt": "scaleeq",
}  # fmt: skip


@contextmanager
def drawing(width_in: float, height_in: float, *, rows: int = 1, **style: Any) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of this size in inches and its axes, one below the other, in the style as long as it is drawn.

    style: further settings of matplotlib, with "_" for ".".
    """
    import matplotlib
    from matplotlib.figure import Figure

    further: Any = {name.replace("_", "."): value for name, value in style.items()}
    with matplotlib.rc_context(STYLE | further):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure, list(figure.subplots(rows, 1, squeeze=False)[:, 0])


def look(index: int) -> dict[str, Any]:
    """Colour and line of the series of this number."""
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": LINES[index // len(PALETTE) % len(LINES)]}


def grouped_bars(axis: Axes, series: dict[str, dict[str, float]], colors: dict[str, str]) -> None:
    """A group of bars for each place, a bar in it for each series.

    series: name -> place -> height; a place that a series lacks has no bar. colors: of the series.
    """
    places = list(dict.fromkeys(place for values in series.values() for place in values))
    width = 0.8 / len(series)
    for index, (name, values) in enumerate(series.items()):
        shift = (index - (len(series) - 1) / 2) * width
        positions = [places.index(place) + shift for place in values]
        axis.bar(positions, list(values.values()), width, color=colors[name], label=plain(name))
    axis.set_xticks(range(len(places)), [plain(place) for place in places])


def plain(words: str, *, longest: int = LONGEST) -> str:
    """Words as matplotlib shows them unchanged: no formula between dollars, and no legend's entry is hidden.

    longest: letters; of more the middle is left out, for a drawing would have no room beside its words.
    """
    if len(words) > longest:
        words = f"{words[: longest // 2]}…{words[len(words) - longest // 2 :]}"
    return ("\N{ZERO WIDTH SPACE}" if words.startswith("_") else "") + words.replace("$", r"\$")


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element, the same for the same figure."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def in_all_kinds(path: Path) -> list[Path]:
    """The files of a figure, by a path without ending: two that scale, for papers, and one of pixels."""
    return [path.with_name(f"{path.name}.{kind}") for kind in KINDS]


def write_figures(figure: Figure, paths: Sequence[Path]) -> None:
    """Write a figure to each file."""
    for path in paths:
        write_figure(figure, path)


def to_picture(figure: Figure) -> np.ndarray:
    """The figure's pixels: (H, W, 3) uint8 in RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def write_figure(figure: Figure, path: Path) -> None:
    """Write a file, whole or not at all; its suffix says of what kind: .svg and .pdf scale, .png is of pixels."""
    kind = path.suffix.removeprefix(".")
    undated: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with replacing(path) as part:
        figure.savefig(part, format=kind, metadata=undated.get(kind))
