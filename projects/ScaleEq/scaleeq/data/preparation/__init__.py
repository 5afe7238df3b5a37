"""Conversions of the label formats that are no pictures: what scaleeq data prepare does.

One module per data set; each states its sources, where to get them, and the official numbers of images. A conversion
writes label pictures (PNG, grey, the value is the label) and lists beside the official files, and leaves these alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from scaleeq.choices import one_of

from ..sets.catalog import datasets_root
from . import coco_stuff, pascal_context, voc2012

CONVERSIONS: dict[str, Callable[..., list[str]]] = {
    "voc2012-trainaug": voc2012.prepare,
    "pascal-context": pascal_context.prepare,
    "coco-stuff-10k": coco_stuff.prepare,
}


def prepare_dataset(
    name: str, *, root: str | None = None, workers: int = 0, allow_incomplete: bool = False
) -> list[str]:
    """Convert one data set; returns the names under which it can be used now.

    name: one of CONVERSIONS. root: the directory of all data sets, by default $DETECTRON2_DATASETS.
    workers: processes that convert; 0 or 1: this one. Files that are there and right are kept: a run that was stopped
        goes on, and one more run checks everything.
    allow_incomplete: a copy with fewer images than the official one is a warning, not an error.
    FileNotFoundError, ValueError: a source is missing or wrong; it says which, and where to get it.
    ImportError: a library is missing that reads MATLAB's files.
    """
    convert = CONVERSIONS[one_of(name, CONVERSIONS, key="the data set")]
    root = datasets_root() if root is None else os.path.expanduser(root)
    return convert(root, workers=workers, allow_incomplete=allow_incomplete)
