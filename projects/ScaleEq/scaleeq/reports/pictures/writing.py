"""From images to a folder of pictures, and index.html, which shows them.

    sheets/NAME.png      image, truth, prediction, error and legend
    <kind>/NAME.png      a kind of maps of the model
    masks/NAME.png       labels as a palette picture
    overlays/NAME.png    the prediction over the image
    thumbs/NAME.jpg      the same, small, for the page

One image at a time is in memory. A file that cannot be read is named, and the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scaleeq.data.sets.catalog import Record
from scaleeq.files import write_text
from scaleeq.pictures import write_jpeg, write_labels, write_png

from ..html import render
from .drawing import fitted, resize_image
from .progress import watched
from .sheets import SHEETS, Classes, Seen, overlay, prediction_sheet, score, scores_in_words
from .sources import Named

logger = logging.getLogger(__name__)

THUMB = 240  # the longer side of a thumbnail, pixels
WRITTEN = ("sheets", "masks", "overlays")  # what is written of each image, on demand


@dataclass
class Entry:
    """One image on the page: its name, a line about it, and its sheets: relative path -> (width, height) in pixels.

    thumb: relative path of its thumbnail; "": none. iou: its mean IoU in percent; None: unknown.
    """

    name: str
    note: str
    sheets: dict[str, tuple[int, int]] = field(default_factory=dict)
    thumb: str = ""
    iou: float | None = None


def page(title: str, entries: Sequence[Entry], faults: Mapping[str, str]) -> str:
    """index.html: thumbnails, in the order of the images or by IoU, then all sheets. It loads nothing from elsewhere.

    faults: image -> why there is no sheet of it.
    """
    known = sorted((entry.iou, place) for place, entry in enumerate(entries) if entry.iou is not None)
    places = {place: rank for rank, (_, place) in enumerate(known)}
    ranks = [places.get(place, len(entries)) for place in range(len(entries))]
    return render(
        "pictures.html", title=title, entries=entries, ranks=ranks, scored=len(known) > 1, faults=list(faults.values())
    )


def write_sheets(
    images: Named,
    look: Callable[[Record], Seen],
    classes: Classes,
    output: Path,
    *,
    kinds: Collection[str] = (),
    written: Collection[str] = ("sheets",),
    title: str = "Predictions",
) -> dict[str, str]:
    """Write the sheets of all images, and the page; returns NAME -> message of those that cannot be read.

    look: of a record; ValueError and OSError are about its files. kinds: of SHEETS, beside the prediction's. written:
    of WRITTEN.
    The page is written after an interruption too, with what there is.
    """
    entries: list[Entry] = []
    faults: dict[str, str] = {}
    try:
        for name, record in watched(images.items(), len(images), unit="images"):
            try:
                seen = look(record)
            except (ValueError, OSError) as error:
                faults[name] = f"{name}: {error}"
                logger.error("%s", faults[name])
                continue
            entries.append(_write(name, seen, classes, output, kinds, written))
    finally:
        write_text(output / "index.html", page(title, entries, faults))
    return faults


def _write(
    name: str, seen: Seen, classes: Classes, output: Path, kinds: Collection[str], written: Collection[str]
) -> Entry:
    scores = score(seen, classes)
    iou = None if scores is None or np.isnan(scores.mean_iou) else scores.mean_iou
    over = overlay(seen, classes)
    entry = Entry(name, scores_in_words(seen, classes), thumb=f"thumbs/{name}.jpg", iou=iou)
    # Pictures for people, which the page shows.
    pictures = {"sheets": prediction_sheet(name, seen, classes)} if "sheets" in written else {}
    pictures |= {"overlays": over} if "overlays" in written else {}
    pictures |= {kind: SHEETS[kind](name, seen) for kind in kinds}
    for folder, picture in pictures.items():
        path = f"{folder}/{name}.png"
        write_png(output / path, picture)
        entry.sheets[path] = (picture.shape[1], picture.shape[0])
    write_jpeg(output / entry.thumb, resize_image(over, fitted((over.shape[0], over.shape[1]), THUMB)))
    # Labels for programs.
    if "masks" in written and seen.prediction is not None:
        write_labels(output / "masks" / f"{name}.png", seen.prediction, classes.colors)
    return entry
