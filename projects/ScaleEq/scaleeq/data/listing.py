"""Files of a data set by name. Directories are listed, files are not opened: a start takes seconds, on a network disk
too. (Opening 20,210 images for their size takes minutes there; records have no height and width, the mapper gives a
sample those of the image that it reads.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from scaleeq.data.catalog import Record


def require_directory(path: str, what: str, layout: str) -> None:
    """FileNotFoundError, with the way out, where there is no such directory.

    what: the data set and split. layout: the folder expected under the root of all data sets.
    """
    if not os.path.isdir(path):
        raise FileNotFoundError(
            f"{what} needs the directory {os.path.abspath(path)}; set the environment variable DETECTRON2_DATASETS to "
            f"the directory that holds {layout}"
        )


def stems(directory: str, suffix: str) -> set[str]:
    """The names in a directory that end in `suffix`, without it."""
    return {name[: -len(suffix)] for name in os.listdir(directory) if name.endswith(suffix)}


def read_names(path: str, what: str) -> list[str]:
    """The lines of a list of images, stripped; empty ones are left out. FileNotFoundError: there is no such list."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{what} needs the list {os.path.abspath(path)}, one image name a line")
    with open(path, encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip()]


def paired_records(
    names: Sequence[str],
    *,
    images: tuple[str, str],
    labels: tuple[str, str],
    what: str,
    label_map: Mapping[int, int] | None = None,
) -> list[Record]:
    """A record for each name, in order.

    images, labels: directory, and what follows the name in a file there.
    label_map: raw value -> label, where they differ.
    FileNotFoundError: no names, or a name without image or labels; it says how many there are of these.
    """
    if not names:
        raise FileNotFoundError(f"{what}: no image in {os.path.abspath(images[0])}")
    for directory, suffix in (images, labels):
        present = stems(directory, suffix)
        if missing := [name for name in names if name not in present]:
            raise FileNotFoundError(
                f"{what}: {len(missing)} of {len(names)} files are missing, the first is "
                f"{os.path.join(os.path.abspath(directory), missing[0] + suffix)}; is the copy complete?"
            )
    shared: dict[str, Any] = {"label_map": label_map} if label_map else {}
    return [
        {
            "file_name": os.path.join(images[0], name + images[1]),
            "sem_seg_file_name": os.path.join(labels[0], name + labels[1]),
            "image_id": name,
            **shared,
        }
        for name in names
    ]
