"""Layouts: the ways in which a data set lies on people's disks, and the records of the first one that is there.

Every data set states its layouts as a table of `Layout`s and calls `load_layout`. Directories are listed, files are not
opened: a start takes seconds, on a network disk too. (Opening 20,210 images for their size takes minutes there; records
have no height and width, the mapper gives a sample those of the image that it reads.)
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..text_file import read_lines
from .catalog import Record, datasets_root

logger = logging.getLogger(__name__)

# What programs leave in folders; nobody means them as images.
LITTER = ("Thumbs.db", "desktop.ini")
NAMES_SHOWN = 3
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
    # Images and their names.
    images = files_by_name(layout.images, layout.image_suffixes, nested=layout.nested)
    all_of_them = names is None and not layout.names
    if names is None:
        names = read_names(layout.names, what) if layout.names else sorted(images)
    passed_over = in_words(files_passed_over(layout.images, layout.image_suffixes, nested=layout.nested))
    if not names:
        pattern = os.path.join(os.path.abspath(layout.images), "*" if layout.nested else "", "*")
        raise FileNotFoundError(
            f"{what}: no image {' or '.join(pattern + suffix for suffix in layout.image_suffixes)}"
            + (f"; there are {passed_over}" if passed_over else "")
        )
    # Labels, and what is beside them.
    labels = files_by_name(layout.labels, (layout.label_suffix,), nested=layout.nested) if layout.labels else {}
    if passed_over:
        folder, ends = os.path.abspath(layout.images), ", ".join(layout.image_suffixes)
        _warn_once(f"{what}: passed over in {folder}: {passed_over}. Images end in {ends}")
    if orphans := sorted(set(labels).difference(images)) if all_of_them else []:
        first = os.path.join(os.path.abspath(layout.labels), labels[orphans[0]])
        _warn_once(
            f"{what}: {len(orphans)} label files have no image, the first is {first}: complete the copy, or take them "
            "away"
        )
    # Records of what is whole.
    suffix = layout.instance_suffix
    instances = files_by_name(layout.labels, (suffix,), nested=layout.nested) if suffix and layout.labels else {}
    records = [
        _record(layout, name, images[name], labels.get(name), instances.get(name))
        for name in names
        if name in images and (name in labels or not layout.labels)
    ]
    _check_complete(what, layout, names, images, labels, records)
    return records


def _check_complete(
    what: str,
    layout: Layout,
    names: Sequence[str],
    images: Mapping[str, str],
    labels: Mapping[str, str],
    records: Sequence[Record],
) -> None:
    """MissingFilesError: a name has no image or no labels."""
    if missing := [name for name in names if name not in images]:
        paths = [os.path.join(os.path.abspath(layout.images), name + layout.image_suffixes[0]) for name in missing]
        message = f"{len(missing)} of {len(names)} images are missing, the first is {paths[0]}; complete the copy"
        raise MissingFilesError(f"{what}: {message}", paths, records)
    if layout.labels and (missing := [name for name in names if name not in labels]):
        image = os.path.join(os.path.abspath(layout.images), images[missing[0]])
        paths = [os.path.join(os.path.abspath(layout.labels), name + layout.label_suffix) for name in missing]
        others = in_words(_named_alike(layout, missing))
        message = (
            f"{len(missing)} of {len(names)} images have no labels, the first is {image}, whose labels would be "
            f"{paths[0]}; complete the copy, or take such images away"
            + (f". Labels end in {layout.label_suffix}; beside them are {others}" if others else "")
        )
        raise MissingFilesError(f"{what}: {message}", paths, records)


@functools.cache
def _warn_once(text: str) -> None:
    """A warning that a run shows once, however often it lists the folder."""
    logger.warning("%s", text)


def _record(layout: Layout, name: str, image: str, labels: str | None, instances: str | None) -> Record:
    record: Record = {"file_name": os.path.join(layout.images, image), "image_id": os.path.basename(name)}
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
    for folder, file in _files_below(directory, nested=nested):
        suffix = next((suffix for suffix in lower if file.lower().endswith(suffix)), None)
        if suffix is None or file.startswith("."):
            continue
        name = os.path.join(folder, file[: -len(suffix)])
        if name in files:
            path = os.path.abspath(directory)
            raise ValueError(f"two files in {path} are named {name}: {files[name]} and {file}; keep one of them")
        files[name] = os.path.join(folder, file)
    return files


def files_passed_over(directory: str, suffixes: Iterable[str], *, nested: bool = False) -> list[str]:
    """The files of a directory that files_by_name leaves out, sorted; but not what programs leave there.

    Of hidden files, those that end like an image; not macOS's "._NAME".
    """
    lower = tuple(suffix.lower() for suffix in suffixes)
    files = []
    for folder, file in _files_below(directory, nested=nested):
        hidden, fits = file.startswith("."), file.lower().endswith(lower)
        left_out = fits and not file.startswith("._") if hidden else not fits
        if left_out and file not in LITTER:
            files.append(os.path.join(folder, file))
    return sorted(files)


def in_words(files: Sequence[str]) -> str:
    """How many files of which ending, and the first names: "2 .gif (a.gif, b.gif)"; "" for none."""
    by_end: dict[str, list[str]] = {}
    for file in files:
        name = os.path.basename(file)
        end = "hidden" if name.startswith(".") else os.path.splitext(name)[1].lower() or "without an ending"
        by_end.setdefault(end, []).append(file)
    return ", ".join(
        f"{len(names)} {end} ({', '.join(names[:NAMES_SHOWN])}{', ...' if len(names) > NAMES_SHOWN else ''})"
        for end, names in sorted(by_end.items())
    )


def _named_alike(layout: Layout, names: Iterable[str]) -> list[str]:
    """Files of the directory of labels that have these names and another ending."""
    wanted = set(names)
    files = files_passed_over(layout.labels, (layout.label_suffix,), nested=layout.nested)
    return [file for file in files if os.path.splitext(file)[0] in wanted]


def read_names(path: str, what: str) -> list[str]:
    """The lines of a list of images, stripped; empty ones are left out.

    FileNotFoundError: there is no such list. ValueError: it is no text in UTF-8 or UTF-16.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{what} needs the list {os.path.abspath(path)}, one image name a line")
    return [line.strip() for line in read_lines(path) if line.strip()]


def _files_below(directory: str, *, nested: bool) -> Iterator[tuple[str, str]]:
    """(folder, name) of all that is no folder, told from the listing alone: nothing is opened or asked for its state.

    folder: "", or, where files are nested, each folder of the directory, sorted.
    """
    folders = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir()) if nested else [""]
    for folder in folders:
        with os.scandir(os.path.join(directory, folder)) as entries:
            yield from ((folder, entry.name) for entry in entries if not entry.is_dir(follow_symlinks=False))


def _has_file(layout: Layout) -> bool:
    """Whether any file of the directory of labels has their suffix."""
    files = _files_below(layout.labels, nested=layout.nested)
    return any(file.lower().endswith(layout.label_suffix.lower()) for _, file in files)
