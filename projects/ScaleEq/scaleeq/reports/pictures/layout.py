"""A sheet: titled panels in rows, sections of them, and a legend below. Pure: numpy and Pillow.

Panels are pasted as they are, so that a pixel of a sheet has exactly the colour of the panel's; matplotlib, whose font
is used where it is installed, would interpolate them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scaleeq.extras import installed

from .drawing import color_bar

BACKGROUND, INK, SOFT = (255, 255, 255), (28, 36, 48), (90, 102, 117)
MARGIN, GAP = 16, 12  # around the sheet; between panels
MIN_CELL = 200  # of a panel's column: a title needs room
TITLE, HEADING, TEXT = 22, 17, 14  # heights of the fonts
LINE = 22  # of text
BAR = 12  # height of a colour bar


@dataclass(frozen=True)
class Panel:
    """picture: (h, w, 3) uint8 RGB. bar: the values, of `unit`, at the ends of a colour bar below it, or None."""

    picture: np.ndarray
    title: str = ""
    bar: tuple[float, float] | None = None
    unit: str = ""


@dataclass(frozen=True)
class Section:
    """Panels in rows of `columns`."""

    panels: Sequence[Panel]
    columns: int
    heading: str = ""


@dataclass(frozen=True)
class Legend:
    """A table whose rows are of a colour; flows into several columns where the sheet has room."""

    headers: Sequence[str] = ()
    colors: Sequence[Sequence[int]] = ()
    rows: Sequence[Sequence[str]] = ()


NO_LEGEND = Legend()


def draw_sheet(
    title: str, sections: Sequence[Section], *, note: str = "", legends: Sequence[Legend] = ()
) -> np.ndarray:
    """The sheet: (H, W, 3) uint8 RGB; legends below each other."""
    # Sizes.
    cells = [_cell_width(section) for section in sections]
    widths = [s.columns * (cell + GAP) - GAP for s, cell in zip(sections, cells, strict=True)]
    legends = [legend for legend in legends if legend.rows]
    width = max([*widths, *map(_legend_width, legends)])
    note_lines = _wrapped(note, width, TEXT)
    lines = [_legend_lines(legend, width) for legend in legends]
    head = TITLE + 10 + LINE * len(note_lines)
    foot = sum(LINE * (count + 1) + GAP for count in lines)
    height = head + sum(map(_section_height, sections)) + foot + 2 * MARGIN
    # Title and note.
    sheet = Image.new("RGB", (width + 2 * MARGIN, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), shortened(title, width, TITLE), INK, _font(TITLE))
    for number, line in enumerate(note_lines):
        draw.text((MARGIN, MARGIN + TITLE + 8 + LINE * number), line, SOFT, _font(TEXT))
    # Sections, then the legends.
    top = MARGIN + head
    for section, cell in zip(sections, cells, strict=True):
        _draw_section(sheet, draw, section, cell, top)
        top += _section_height(section)
    for legend, count in zip(legends, lines, strict=True):
        _draw_legend(draw, legend, top, count)
        top += LINE * (count + 1) + GAP
    return np.asarray(sheet)


def shortened(text: str, width: int, size: int = TEXT) -> str:
    """The text, its middle left out where it is wider than `width` pixels."""
    font, kept = _font(size), len(text)
    whole = text
    while kept > 2 and font.getlength(text) > width:
        kept -= 1
        text = f"{whole[: kept // 2]}…{whole[len(whole) - (kept - kept // 2) :]}"
    return text


def number(value: float, digits: int = 3) -> str:
    """The value with `digits` significant digits."""
    return f"{value:.{digits}g}"


def _cell_width(section: Section) -> int:
    return max([MIN_CELL, *(panel.picture.shape[1] for panel in section.panels)])


def _rows(section: Section) -> list[Sequence[Panel]]:
    return [section.panels[start : start + section.columns] for start in range(0, len(section.panels), section.columns)]


def _section_height(section: Section) -> int:
    return (HEADING + 12) * bool(section.heading) + sum(_row_height(row) for row in _rows(section))


def _row_height(row: Sequence[Panel]) -> int:
    titles = LINE * any(panel.title for panel in row)
    bars = (LINE + 2) * any(panel.bar is not None for panel in row)
    return max(panel.picture.shape[0] for panel in row) + titles + bars + GAP


def _draw_section(sheet: Image.Image, draw: ImageDraw.ImageDraw, section: Section, cell: int, top: int) -> None:
    if section.heading:
        draw.text((MARGIN, top), shortened(section.heading, sheet.width - 2 * MARGIN, HEADING), INK, _font(HEADING))
        top += HEADING + 12
    for row in _rows(section):
        below = top + LINE * any(panel.title for panel in row)
        for number_in_row, panel in enumerate(row):
            left = MARGIN + number_in_row * (cell + GAP)
            draw.text((left, top), shortened(panel.title, cell), INK, _font(TEXT))
            sheet.paste(Image.fromarray(panel.picture), (left, below))
            if panel.bar is not None:
                at = left, below + panel.picture.shape[0] + 4
                _draw_bar(sheet, draw, panel, at, min(cell, max(MIN_CELL, panel.picture.shape[1])))
        top += _row_height(row)


def _draw_bar(sheet: Image.Image, draw: ImageDraw.ImageDraw, panel: Panel, at: tuple[int, int], width: int) -> None:
    """low, the bar, high with the unit, on one line of `width` pixels. at: its left upper corner."""
    assert panel.bar is not None
    (left, top), ends = at, panel.bar
    # As many digits as tell the ends apart.
    digits = next((n for n in range(3, 7) if number(ends[0], n) != number(ends[1], n)), 3)
    low, high = (number(end, digits) for end in ends)
    high = f"{high} {panel.unit}".rstrip()
    if ends[0] >= ends[1]:
        draw.text((left, top), f"{low} everywhere", SOFT, _font(TEXT))
        return
    font = _font(TEXT)
    start, stop = left + int(font.getlength(low)) + 8, left + width - int(font.getlength(high)) - 8
    draw.text((left, top), low, SOFT, font)
    draw.text((stop + 8, top), high, SOFT, font)
    sheet.paste(Image.fromarray(color_bar(max(1, stop - start), BAR)), (start, top + 3))


def _column_widths(legend: Legend) -> list[int]:
    cells = [row for row in [legend.headers, *legend.rows] if row]
    return [int(max(_font(TEXT).getlength(text) for text in column)) + 14 for column in zip(*cells, strict=True)]


def _legend_width(legend: Legend) -> int:
    return LINE + 6 + sum(_column_widths(legend)) if legend.rows else 0


def _legend_lines(legend: Legend, width: int) -> int:
    """Rows below each other in a legend that flows over `width` pixels."""
    columns = max(1, (width + GAP) // (_legend_width(legend) + 2 * GAP))
    return -(-len(legend.rows) // columns)


def _draw_legend(draw: ImageDraw.ImageDraw, legend: Legend, top: int, lines: int) -> None:
    widths = _column_widths(legend)
    for index, row in enumerate(legend.rows):
        column, line = divmod(index, lines)
        left = MARGIN + column * (_legend_width(legend) + 2 * GAP)
        if line == 0 and (column == 0 or len(legend.headers) > 1):  # a name alone is said once
            _draw_row(draw, legend.headers, widths, left, top, SOFT)
        y = top + LINE * (line + 1)
        draw.rectangle((left, y + 1, left + LINE - 4, y + LINE - 5), tuple(legend.colors[index]), SOFT)  # type: ignore[arg-type]
        _draw_row(draw, row, widths, left, y, INK)


def _draw_row(
    draw: ImageDraw.ImageDraw, row: Sequence[str], widths: Sequence[int], left: int, top: int, ink: tuple[int, int, int]
) -> None:
    """The first cell to the left of its column, the others to the right of theirs."""
    left += LINE + 6
    for index, (text, width) in enumerate(zip(row, widths, strict=False)):
        inset = 0 if index == 0 else width - 14 - int(_font(TEXT).getlength(text))
        draw.text((left + inset, top), text, ink, _font(TEXT))
        left += width


def _wrapped(text: str, width: int, size: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and _font(size).getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """matplotlib's own font, the same on every machine; Pillow's where it is not installed."""
    if not installed("matplotlib"):
        return ImageFont.load_default(size)
    import matplotlib  # not sooner: it takes half a second

    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
