"""Layouts: the ways in which a data set lies on people's disks, and the records of the first one that is there.

Every data set states its layouts as a table of `Layout`s and calls `load_layout`. Directories are listed, files are not
opened: a start takes seconds, on a network disk too. (Opening 20,210 images for their size takes minutes there; records
have no height and width, the mapper gives a sample those of the image that it reads.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scaleeq.data.catalog import Record, datasets_root

# mmsegmentation and HRNet keep all data sets in data/ of their checkouts: either folder may be the root.
ROOT_FOLDERS = ("", "data")


class MissingFilesError(FileNotFoundError):
    """A data set lacks files. missing: their paths; records: of the images that have all that they need."""

    def __init__(self, message: str, missing: Sequence[str] = (), records: Sequence[Record] = ()) -> None:
        super().__init__(message)
        self.missing = list(missing)
        self.records = list(records)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which one split lies on disk. Paths are relative to the directory of all data sets.

    used_by: whose layout it is, for messages: "the official archive".
    images, labels: directories; no labels: the split of a test server.
    image_suffixes, label_suffix: what follows the name in a file, case aside; the first part of both is the same.
    label_map: raw value -> label, where they differ.
    names: a text file that lists the names, one a line; "": all images of the directory, sorted.
    nested: files lie one level deeper, in folders that images and labels have in common (Cityscapes' cities).
    instance_suffix: of files beside the labels that tell objects apart; an image may lack it.
    """

    used_by: str
    images: str
    labels: str = ""
    image_suffixes: tuple[str, ...] = (".jpg",)
    label_suffix: str = ".png"
    label_map: Mapping[int, int] | None = None
    names: str = ""
    nested: bool = False
    instance_suffix: str = ""

    def under(self, root: str) -> Layout:
        """The same layout with paths that start at the root."""
        images, labels, names = (path and os.path.join(root, path) for path in (self.images, self.labels, self.names))
        return replace(self, images=images, labels=labels, names=names)

    def state(self) -> dict[str, bool]:
        """For each thing that makes the layout recognizable, as its full path: is it there?"""
        found = {os.path.abspath(self.images): os.path.isdir(self.images)}
        if self.labels:
            path = os.path.abspath(self.labels)
            found[path] = os.path.isdir(self.labels)
            if found[path]:
                folder = "*" if self.nested else ""
                found[os.path.join(path, folder, "*" + self.label_suffix)] = _has_file(self)
        return found

    def report(self) -> list[str]:
        """Lines for a message: whose layout it is, and what of it is there."""
        state = self.state()
        width = max(map(len, state))
        lines = (f"    {path:{width}}  {'found' if there else 'missing'}" for path, there in state.items())
        return [f"  {self.used_by}:", *lines]


def load_layout(what: str, layouts: Sequence[Layout], *, root: str | None = None, way_out: str = "") -> list[Record]:
    """Records of the first layout that is there; see find_layout and layout_records."""
    return layout_records(what, find_layout(what, layouts, root=root, way_out=way_out))


def find_layout(what: str, layouts: Sequence[Layout], *, root: str | None = None, way_out: str = "") -> Layout:
    """The first layout whose directories exist and hold labels, with full paths.

    what: the data set and split, for messages. root: the directory of all data sets, by default $DETECTRON2_DATASETS.
    way_out: what else a user can do who has none of them, a sentence.
    FileNotFoundError: there is none; it lists what was looked for.
    """
    root = datasets_root() if root is None else root
    roots = [path for folder in ROOT_FOLDERS if os.path.isdir(path := os.path.join(root, folder)) or not folder]
    candidates = [layout.under(path) for path in roots for layout in layouts]
    for candidate in candidates:
        if all(candidate.state().values()):
            return candidate
    lines = [line for candidate in candidates for line in candidate.report()]
    raise FileNotFoundError(
        "\n".join((f"{what} is in none of these layouts under {os.path.abspath(root)}:", *lines))
        + (f"\n{way_out}" if way_out else "")
        + "\nSet the environment variable DETECTRON2_DATASETS to the directory that holds one of them"
    )


def layout_records(what: str, layout: Layout, names: Sequence[str] | None = None) -> list[Record]:
    """A record for each name, in order.

    layout: with full paths, as find_layout returns it. names: instead of the layout's.
    FileNotFoundError: no names; MissingFilesError: a name without image or labels, it says how many there are of these.
    """
    images = files_by_name(layout.images, layout.image_suffixes, nested=layout.nested)
    if names is None:
        names = read_names(layout.names, what) if layout.names else sorted(images)
    if not names:
        pattern = os.path.join(os.path.abspath(layout.images), "*" if layout.nested else "", "*")
        raise FileNotFoundError(f"{what}: no image {' or '.join(pattern + suffix for suffix in layout.image_suffixes)}")
    labels = files_by_name(layout.labels, (layout.label_suffix,), nested=layout.nested) if layout.labels else {}
    suffix = layout.instance_suffix
    instances = files_by_name(layout.labels, (suffix,), nested=layout.nested) if suffix and layout.labels else {}
    records = [
        _record(layout, name, images[name], labels.get(name), instances.get(name))
        for name in names
        if name in images and (name in labels or not layout.labels)
    ]
    if missing := [name for name in names if name not in images]:
        paths = [os.path.join(os.path.abspath(layout.images), name + layout.image_suffixes[0]) for name in missing]
        message = f"{len(missing)} of {len(names)} images are missing, the first is {paths[0]}; complete the copy"
        raise MissingFilesError(f"{what}: {message}", paths, records)
    if layout.labels and (missing := [name for name in names if name not in labels]):
        image = os.path.join(os.path.abspath(layout.images), images[missing[0]])
        paths = [os.path.join(os.path.abspath(layout.labels), name + layout.label_suffix) for name in missing]
        message = (
            f"{len(missing)} of {len(names)} images have no labels, the first is {image}, whose labels would be "
            f"{paths[0]}; complete the copy, or take such images away"
        )
        raise MissingFilesError(f"{what}: {message}", paths, records)
    return records


def _record(layout: Layout, name: str, image: str, labels: str | None, instances: str | None) -> Record:
    record: dict[str, Any] = {"file_name": os.path.join(layout.images, image), "image_id": os.path.basename(name)}
    if labels:
        record["sem_seg_file_name"] = os.path.join(layout.labels, labels)
        if layout.label_map:
            record["label_map"] = layout.label_map
    if instances:
        record["instance_file_name"] = os.path.join(layout.labels, instances)
    return record


def files_by_name(directory: str, suffixes: tuple[str, ...], *, nested: bool = False) -> dict[str, str]:
    """The files in a directory that end in one of the suffixes, case aside: what comes before the suffix -> file.

    nested: in the folders of the directory instead; names and files are FOLDER/NAME then. Hidden files are left out.
    ValueError: two files of one name (a.jpg and a.png).
    """
    lower = tuple(suffix.lower() for suffix in suffixes)
    files: dict[str, str] = {}
    for folder in _folders(directory) if nested else [""]:
        for file in os.listdir(os.path.join(directory, folder)):
            suffix = next((suffix for suffix in lower if file.lower().endswith(suffix)), None)
            if suffix is None or file.startswith("."):
                continue
            name = os.path.join(folder, file[: -len(suffix)])
            if name in files:
                path = os.path.abspath(directory)
                raise ValueError(f"two files in {path} are named {name}: {files[name]} and {file}; keep one of them")
            files[name] = os.path.join(folder, file)
    return files


def read_names(path: str, what: str) -> list[str]:
    """The lines of a list of images, stripped; empty ones are left out. FileNotFoundError: there is no such list."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{what} needs the list {os.path.abspath(path)}, one image name a line")
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


def _folders(directory: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())


def _has_file(layout: Layout) -> bool:
    """Whether any file of the directory of labels has their suffix."""
    suffix = layout.label_suffix.lower()
    for folder in _folders(layout.labels) if layout.nested else [""]:
        with os.scandir(os.path.join(layout.labels, folder)) as entries:
            if any(entry.name.lower().endswith(suffix) for entry in entries):
                return True
    return False
