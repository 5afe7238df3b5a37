"""What is wrong between splits and folders, told by file names, sizes and bytes alone: leaks, and labels left over.

A leak is an image of which training and testing both have a copy, whatever its name. Files are compared
byte by byte (by their hash) where their sizes agree, so a sample of one split is compared with all of the other.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Sequence

from scaleeq.engine import DatasetCatalog

from ..folder import IMAGE_SUFFIXES, KINDS, PREFIX, WHAT_IT_HOLDS, coco_files, find_dataset, locate
from ..sets.catalog import Record, datasets_root
from ..sets.coco import coco_splits
from ..sets.listing import files_passed_over, in_words
from .findings import Finding

SPLIT = re.compile(r"(?P<family>.*?)[_/](?P<split>(train|val|test)\w*)$")


def names_of(argument: str) -> list[str]:
    """The data sets that an argument means: a name, or a folder, with each of its splits.

    A relative path is looked for as it is given, and then below the directory of all data sets, as "folder:PATH" is;
    the names that are returned hold absolute paths, which say what was taken.

    ValueError: neither; the nearest names, or the paths, are told.
    """
    if argument in DatasetCatalog.list():
        return [argument]
    if not argument.startswith(PREFIX):
        argument = PREFIX + _folder_of(argument)
    if splits := coco_splits(argument.removeprefix(PREFIX)):
        return [f"{argument}/{each}" for each in splits]
    try:
        base, split = locate(argument)
    except FileNotFoundError:  # told where it is loaded
        return [argument]
    base = os.path.abspath(base)
    images = os.path.join(base, KINDS[0])
    splits = sorted(entry.name for entry in os.scandir(images) if entry.is_dir()) if os.path.isdir(images) else []
    if splits and not split:
        return [PREFIX + os.path.join(base, each) for each in splits]
    return [PREFIX + (os.path.join(base, split) if split else base)]


def _folder_of(argument: str) -> str:
    """The absolute path of a folder that is given without "folder:"; of two, the one that is a data set."""
    given = os.path.expanduser(argument)
    paths = list(dict.fromkeys(os.path.abspath(path) for path in (given, os.path.join(datasets_root(), given))))
    for path in paths:
        if coco_files(PREFIX + path) or coco_splits(path):
            return path
        with contextlib.suppress(FileNotFoundError):
            locate(PREFIX + path)
            return path
    if there := [path for path in paths if os.path.isdir(path)]:
        return there[0]  # what it lacks is told where it is loaded
    if os.sep not in argument:
        find_dataset(argument)  # raises
    raise ValueError(f"there is no folder {' nor '.join(paths)}; {WHAT_IT_HOLDS}")


def is_training(name: str) -> bool:
    """Whether the name is one of a training split: "..._train", "..._trainaug", "folder:PATH/train"."""
    match = SPLIT.match(name)
    return match is not None and match["split"].startswith("train")


def other_side(name: str, given: Sequence[str] = ()) -> list[str]:
    """The splits that must not share an image with it: of the given ones, and of those registered with its family.

    A data set for training must not share with others, another one not with those for training.
    """
    family = _family(name)
    registered = [each for each in DatasetCatalog.list() if family and _family(each) == family]
    beside = names_of(family) if family.startswith(PREFIX) else []
    names = dict.fromkeys([*given, *registered, *beside])
    return [each for each in names if each != name and is_training(each) != is_training(name)]


def _family(name: str) -> str:
    """The name without its split; "" where it ends in none."""
    match = SPLIT.match(name)
    return match["family"] if match else ""


def find_leak(records: Sequence[Record], other_records: Sequence[Record], other: str) -> list[Finding]:
    """The images of `records` that the split called `other` has too."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for record in other_records:
        if os.path.isfile(record["file_name"]):
            by_size[os.path.getsize(record["file_name"])].append(record["file_name"])
    shared = []
    for record in records:
        path = record["file_name"]
        size = os.path.getsize(path) if os.path.isfile(path) else 0
        twin = next((each for each in by_size.get(size, ()) if size and _same_file(path, each)), None)
        if twin is not None:
            shared.append((path, twin))
    if not shared:
        return []
    advice = (
        f"{other} has them too, the first as {shared[0][1]}: scores on images that were trained on mean nothing; take "
        "them out of one of the two"
    )
    return [Finding("leak", len(shared), advice, [path for path, _ in shared])]


def _same_file(path: str, other: str) -> bool:
    return os.path.realpath(path) == os.path.realpath(other) or _content_hash(path) == _content_hash(other)


@functools.lru_cache(maxsize=1 << 16)
def _content_hash(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.blake2b(file.read(), digest_size=16).digest()


def find_orphans(records: Sequence[Record]) -> list[Finding]:
    """Label files beside those of the records to which no image belongs.

    A label file belongs to an image that is named as in the records: what the two names share, and then each its end.
    """
    images: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for record in records:
        if "sem_seg_file_name" in record and "read" not in record:
            (label_dir, label_name), (image_dir, image_name) = (
                os.path.split(record[key]) for key in ("sem_seg_file_name", "file_name")
            )
            stem = _shared_stem(image_name, label_name)
            images[label_dir, label_name[len(stem) :]].add((image_dir, image_name[len(stem) :]))
    orphans = []
    for (label_dir, label_end), image_ends in images.items():
        named = {name for image_dir, end in image_ends for name in _stems(image_dir, end)}
        orphans += [os.path.join(label_dir, name + label_end) for name in sorted(_stems(label_dir, label_end) - named)]
    advice = "Their images are missing, or lie elsewhere: complete the copy, or take these files away"
    return [Finding("orphan labels", len(orphans), advice, orphans)] if orphans else []


def find_passed_over(records: Sequence[Record]) -> list[Finding]:
    """Files beside the images of the records that no data set takes for images, by how their names end."""
    folders = sorted({os.path.dirname(record["file_name"]) for record in records if "read" not in record})
    files = [
        os.path.join(folder, file)
        for folder in folders
        if os.path.isdir(folder)
        for file in files_passed_over(folder, IMAGE_SUFFIXES)
    ]
    advice = f"{in_words([os.path.basename(file) for file in files])}. Images end in {', '.join(IMAGE_SUFFIXES)}"
    return [Finding("passed over", len(files), advice, files)] if files else []


def _shared_stem(first: str, second: str) -> str:
    """What both names begin with, without their extensions."""
    equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    shared = "".join(character for character, _ in equal)
    return min((shared, *(os.path.splitext(name)[0] for name in (first, second))), key=len)


def _stems(directory: str, end: str) -> set[str]:
    """The names in a directory that end so, without the end; none where it cannot be listed."""
    try:
        return {name[: -len(end)] for name in os.listdir(directory) if name.endswith(end) and not name.startswith(".")}
    except OSError:
        return set()
