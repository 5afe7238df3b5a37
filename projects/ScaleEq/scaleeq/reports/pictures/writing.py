"""From images to a folder of sheets: sheets/NAME.png, <kind>/NAME.png for each kind of maps, and index.html.

One image at a time is in memory. A file that cannot be read is named, and the others go on.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from scaleeq.data.sets.catalog import Record
from scaleeq.files import write_text
from scaleeq.pictures import write_png

from ..html import render
from .sheets import SHEETS, Classes, Seen, prediction_sheet, scores_in_words
from .sources import Named

logger = logging.getLogger(__name__)


@dataclass
class Entry:
    """One image on the page: its name, a line about it, and its sheets: relative path -> (width, height) in pixels."""

    name: str
    note: str
    sheets: dict[str, tuple[int, int]] = field(default_factory=dict)


def page(title: str, entries: Sequence[Entry], faults: Mapping[str, str]) -> str:
    """index.html: all sheets to scroll through. It loads nothing but the sheets beside it.

    faults: image -> why there is no sheet of it.
    """
    return render("pictures.html", title=title, entries=entries, faults=list(faults.values()))


def write_sheets(
    images: Named,
    look: Callable[[Record], Seen],
    classes: Classes,
    output: Path,
    *,
    kinds: Collection[str] = (),
    title: str = "Predictions",
) -> dict[str, str]:
    """Write the sheets of all images, and the page; returns NAME -> message of those that cannot be read.

    look: of a record; ValueError and OSError are about its files. kinds: of SHEETS, beside the prediction's.
    The page is written after an interruption too, with what there is.
    """
    entries: list[Entry] = []
    faults: dict[str, str] = {}
    try:
        for name, record in tqdm(images.items(), unit="images", disable=not sys.stderr.isatty()):
            try:
                seen = look(record)
            except (ValueError, OSError) as error:
                faults[name] = f"{name}: {error}"
                logger.error("%s", faults[name])
                continue
            entries.append(_write(name, seen, classes, output, kinds))
    finally:
        write_text(output / "index.html", page(title, entries, faults))
    return faults


def _write(name: str, seen: Seen, classes: Classes, output: Path, kinds: Collection[str]) -> Entry:
    entry = Entry(name, scores_in_words(seen, classes))
    sheets = {"sheets": prediction_sheet(name, seen, classes)}
    sheets |= {kind: SHEETS[kind](name, seen) for kind in kinds}
    for folder, sheet in sheets.items():
        path = f"{folder}/{name}.png"
        write_png(output / path, sheet)
        entry.sheets[path] = (sheet.shape[1], sheet.shape[0])
    return entry
