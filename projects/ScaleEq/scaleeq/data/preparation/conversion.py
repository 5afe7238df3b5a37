"""What all conversions share: sources that are looked for, numbers that are checked, pictures written in parallel.

Each picture is written beside its place and renamed, lists come last: whatever is there is whole, and a run that was
killed goes on where it stopped. "Right" is decided by content, not by name or time: an existing picture is kept if it
holds the labels of its source, so one more run is a check of everything, and nothing is written by it.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from scaleeq.files import remove_parts, replacing, write_text
from scaleeq.workers import WorkerKilledError, map_in_processes

from ..picture_file import read_size, read_values
from ..sets.listing import ROOT_FOLDERS
from ..text_file import read_lines

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """One picture to make.

    target: path of the label picture. image: path of the image, whose size the labels must have.
    source: path of what the labels come from, for messages. read: makes the labels: (H, W) uint8.
    """

    target: str
    image: str
    source: str
    read: Callable[[], np.ndarray]

    def run(self) -> str:
        """Make the picture where it is not there yet: "kept", "replaced" or "written".

        ValueError: the labels have another size than the image.
        """
        labels = self.read()
        size = read_size(self.image)
        if labels.shape != size:
            raise ValueError(
                f"{self.source} has labels of {labels.shape} (height, width), but the image {self.image} is {size}; "
                "do they belong together?"
            )
        there = os.path.exists(self.target)
        if there and _holds(self.target, labels):
            return "kept"
        with replacing(self.target) as part:
            Image.fromarray(labels).save(part, format="PNG")
        return "replaced" if there else "written"


def convert(conversions: Sequence[Conversion], what: str, workers: int) -> None:
    """Run all, in processes, with a progress bar; the first error ends it, and what is written stays.

    what: the data set, for the bar. workers: processes; 0 or 1: this one.
    OSError, ValueError: as a conversion raises it. WorkerKilledError: somebody, usually the system, has killed one.
    """
    for folder in {os.path.dirname(conversion.target) for conversion in conversions}:
        remove_parts(folder)
    outcomes = map_in_processes(Conversion.run, conversions, workers)
    counts: Counter[str] = Counter()
    try:
        for conversion, outcome in zip(
            conversions, tqdm(outcomes, desc=what, total=len(conversions), unit="image"), strict=True
        ):
            if outcome == "replaced" and not counts["replaced"]:
                logger.warning("%s held other labels than %s, and is replaced", conversion.target, conversion.source)
            counts[outcome] += 1
    except WorkerKilledError as error:
        raise WorkerKilledError(f"{error}; the same command goes on from here") from error
    logger.info(
        "%s: %d label pictures, of which %d are new, %d replaced and %d were there",
        *(what, len(conversions), counts["written"], counts["replaced"], counts["kept"]),
    )


def write_list(path: str, names: Iterable[str]) -> None:
    """A list of images, one name a line, sorted. One that has these names already is kept, in whatever order."""
    wanted = sorted(names)
    if os.path.isfile(path):
        if sorted(filter(None, map(str.strip, read_lines(path)))) == wanted:
            return
        logger.warning("%s named other images, and is replaced", path)
    write_text(path, "".join(f"{name}\n" for name in wanted))


def find_source(root: str, candidates: Sequence[str], *, what: str, get_it: str) -> str:
    """The first of the paths under the root that exists; see find_sources."""
    return find_sources(root, candidates, what=what, get_it=get_it)[0]


def find_sources(root: str, candidates: Sequence[str], *, what: str, get_it: str) -> list[str]:
    """Those of the paths under the root that exist, at least one.

    candidates: relative to the root. what: needs it. get_it: a sentence: where it can be had.
    FileNotFoundError: none exists; it names all of them.
    """
    paths = [os.path.join(root, folder, *path.split("/")) for folder in ROOT_FOLDERS for path in candidates]
    if found := [path for path in paths if os.path.exists(path)]:
        return found
    tried = "".join(f"\n  {os.path.abspath(path)}" for path in paths[: len(candidates)])
    raise FileNotFoundError(
        f"{what} needs one of these, and none is there:{tried}\n{get_it}\nThe directory of all data sets is --root, or "
        "the environment variable DETECTRON2_DATASETS"
    )


def select_present(
    names: Iterable[str], *, present: Iterable[str], official: int, what: str, allow_incomplete: bool
) -> list[str]:
    """The names that are present, sorted, if they are as many as officially.

    names: of the lists. present: those whose files are all there. official: the official number.
    ValueError: fewer or more, unless allow_incomplete, which makes it a warning; or none.
    """
    names, there = set(names), set(present)
    found, missing = sorted(names & there), sorted(names - there)
    if found and len(found) == len(names) == official:
        return found
    message = f"{what}: {len(found):,} images are there, officially they are {official:,}"
    if missing:
        message += f"; {len(missing):,} are listed without their files, the first is {missing[0]}"
    if len(names) != official:
        message += f"; the lists name {len(names):,}"
    if not found:
        raise ValueError(f"{message}. Is the copy complete?")
    if not allow_incomplete:
        raise ValueError(f"{message}. Complete the copy, or go on with these images: --allow-incomplete")
    logger.warning("%s; the scores on it are not those of the official data set", message)
    return found


def _holds(path: str, labels: np.ndarray) -> bool:
    """Whether the picture is one of class indexes, grey or palette, that can be read and holds the labels."""
    try:
        values, header = read_values(path, what="labels")
    except (OSError, ValueError):
        return False
    return header.mode in ("L", "P") and np.array_equal(values, labels)
