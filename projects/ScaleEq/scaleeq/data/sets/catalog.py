"""Registration of data sets by name, lazily: importing registers names, files are looked at by DatasetCatalog.get.

The catalogs are the engine's. A second import of this package registers nothing twice, and a name that somebody else
owns (Detectron2's built-in data sets, a user's) is refused instead of shadowed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from scaleeq.engine import DatasetCatalog, MetadataCatalog
from scaleeq.pictures import palette

from ..record_file import Record as Record
from ..record_file import with_label_file

IGNORE_LABEL = 255
ONE_CLASS = (
    "of one class every prediction is right and every loss 0, so nothing is learned or measured. One class against the "
    "background are two classes: write the background as a class (label 0, for example) instead of void"
)


def datasets_root() -> str:
    """The directory that holds all data sets: $DETECTRON2_DATASETS, by default ./datasets; ~ is expanded."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def read_table(text: str) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Names and colours of classes, in the order of their labels: "wall 120 120 120 | chest of drawers 6 51 255"."""
    rows = [entry.split() for entry in text.split("|")]
    names = tuple(" ".join(row[:-3]) for row in rows)
    return names, tuple((int(red), int(green), int(blue)) for *_, red, green, blue in rows)


def register_dataset(
    name: str,
    load: Callable[[], list[Record]],
    *,
    classes: Sequence[str],
    colors: Sequence[Sequence[int]],
    family: str = "",
    flip_pairs: Sequence[tuple[int, int]] = (),
    objects: Sequence[str] = (),
    panoptic_things: Sequence[int] | None = None,
) -> None:
    """Register a data set for semantic segmentation, or for objects, under the name.

    name: as users type it in DATASETS.TRAIN and DATASETS.TEST.
    load: called by DatasetCatalog.get(name), returns the records; their labels' paths become such as Detectron2's own
        readers read rightly (record_file).
    classes, colors: name and (r, g, b) in 0..255 of each label 0..K-1.
    family: "ade20k", "cityscapes", "voc2012", "lip": whose official metrics and submission files apply; "": none.
    flip_pairs: labels that a horizontal flip exchanges, such as left and right arm.
    objects: the names of the classes of objects, where there are boxes. panoptic_things: where there are panoptic
        segments, the label of each of these classes; other labels are stuff.

    Raises ValueError if somebody else has registered the name, or if names and colours differ in number.
    """
    if len(classes) != len(colors):
        raise ValueError(f"{name}: {len(classes)} class names but {len(colors)} colours")
    metadata = MetadataCatalog.get(name)
    if name in DatasetCatalog.list():
        if metadata.get("registered_by") == "scaleeq":
            return
        raise ValueError(f"the data set {name!r} is registered already, and not by scaleeq; choose another name")
    DatasetCatalog.register(name, lambda: [with_label_file(record) for record in load()])
    metadata.set(
        stuff_classes=list(classes),
        stuff_colors=[tuple(int(value) for value in color) for color in colors],
        ignore_label=IGNORE_LABEL,
        evaluator_type="sem_seg" if classes or not objects else "coco",
        family=family,
        flip_pairs=[tuple(pair) for pair in flip_pairs],
        registered_by="scaleeq",
    )
    if objects:
        metadata.set(thing_classes=list(objects), thing_colors=palette(len(objects) + 1)[1:])
    if panoptic_things is not None:
        metadata.set(panoptic_things=tuple(panoptic_things))
