"""A record's image and labels as arrays, from files or from the function that its data set gave it.

As in Detectron2, an image is turned by its EXIF orientation, and so are labels. Unlike there, a palette picture of
labels is read as its indexes (there, converting it to grey makes labels of luminances), and labels that no class
declares are refused where they are read. Files are opened and decoded in `picture_file`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import cv2
import numpy as np

from scaleeq.choices import one_of

from .picture_file import read_rgb, read_values
from .sets.catalog import IGNORE_LABEL, Record

IMAGE_FORMATS = ("RGB", "BGR")


def read_image(record: Record, image_format: str = "RGB") -> np.ndarray:
    """The record's image: (H, W, 3) uint8.

    image_format: "RGB" or "BGR", the order of the channels.
    """
    one_of(image_format, IMAGE_FORMATS, key="the image format")
    if "read" in record:
        image = _read(record)[0]
    else:
        image = record["read_image"]().copy() if "read_image" in record else read_rgb(record["file_name"])
    return image if image_format == "RGB" else np.ascontiguousarray(image[:, :, ::-1])


def has_labels(record: Record) -> bool:
    """Whether the record comes with labels; those of a test server do not."""
    return "read" in record or "sem_seg_file_name" in record


def read_labels(record: Record, *, num_classes: int | None = None, ignore_label: int = IGNORE_LABEL) -> np.ndarray:
    """The record's labels: (H, W) uint8.

    record: "label_map", where present, translates raw values to labels (CamVid: 11 to 255).
    num_classes: where given, labels other than 0..num_classes-1 and ignore_label raise ValueError with the file's name.
    """
    if "read" in record:
        labels = _read(record)[1]
    else:
        labels, mode = _read_label_file(record["sem_seg_file_name"])
        if num_classes is not None and mode == "1":
            check_one_bit(labels, num_classes, source=str(record["sem_seg_file_name"]))
    if record.get("label_map"):
        table = np.arange(256, dtype=np.uint8)
        for raw, label in record["label_map"].items():
            table[raw] = label
        labels = cv2.LUT(labels, table)
    if num_classes is not None:
        source = str(record.get("sem_seg_file_name", record["file_name"]))
        check_labels(labels, num_classes, ignore_label, source=source)
    return labels


def read_pair(record: Record, *, num_classes: int, ignore_label: int = IGNORE_LABEL) -> tuple[np.ndarray, np.ndarray]:
    """Image: (H, W, 3) uint8 in RGB, and labels: (H, W) uint8.

    Raises ValueError naming the files for labels of another size or outside the classes.
    """
    image = read_image(record)
    labels = read_labels(record, num_classes=num_classes, ignore_label=ignore_label)
    check_same_size(record, image.shape[:2], labels.shape)
    return image, labels


def read_instances(record: Record) -> np.ndarray | None:
    """The ids of the record's instances (Cityscapes' instanceIds): (H, W) int32; None: it has none.

    ValueError, naming the file: more than one channel, or 8 bits a pixel, too few for labelId * 1000 + number.
    """
    path = record.get("instance_file_name")
    if path is None:
        return None
    instances, header = read_values(path, what="instances")
    if instances.ndim != 2 or header.bits < 16 or instances.min() < 0:
        raise ValueError(
            f"the instances {path} are a picture of mode {header.mode}; expected one channel of 16 bits, "
            "labelId * 1000 + number: is this one of the other pictures of the archive (labelIds, color)?"
        )
    return instances.astype(np.int32)


def _read(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels by the record's own function; the caller's own arrays, as the last call's are kept for both."""
    image, labels = _call(record["read"])
    return image.copy(), labels.copy()


@functools.lru_cache(maxsize=1)
def _call(read: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return read()


def check_same_size(
    record: Record, image_shape: tuple[int, ...], labels_shape: tuple[int, ...], *, key: str = "sem_seg"
) -> None:
    """Raise ValueError, naming the files, if the two shapes (height, width) differ. key: of the target in a sample."""
    if image_shape == labels_shape:
        return
    if key != "sem_seg":
        file = record.get(f"{key}_file_name", "")
        raise ValueError(
            f"the image {record['file_name']} is {image_shape} (height, width), but its {key} {file} are "
            f"{labels_shape}; do the two belong together?"
        )
    advice = (
        "do the two belong together? Labels must have the size of their image; resize them by nearest, or not at all"
    )
    if image_shape == labels_shape[::-1]:
        advice = (
            "one of them is turned: images are turned by their EXIF orientation, so labels must be drawn on the "
            "turned picture, or carry the same EXIF orientation"
        )
    raise ValueError(
        f"the image {record['file_name']} is {image_shape} (height, width), but its labels "
        f"{record['sem_seg_file_name']} are {labels_shape}; {advice}"
    )


def check_labels(labels: np.ndarray, num_classes: int, ignore_label: int, *, source: str) -> None:
    """Raise ValueError if labels: (H, W) uint8 holds another value than 0..num_classes-1 and ignore_label.

    source: where the labels come from, for the message.
    """
    present = np.flatnonzero(cv2.calcHist([labels], [0], None, [256], [0, 256]))
    undeclared = present[(present >= num_classes) & (present != ignore_label)]
    if len(undeclared):
        raise ValueError(
            f"labels {undeclared.tolist()} in {source} are neither one of the {num_classes} classes "
            f"(0..{num_classes - 1}) nor the ignore label {ignore_label}. "
            + likely_cause(present.tolist(), undeclared.tolist(), num_classes, ignore_label)
        )


def check_one_bit(labels: np.ndarray, num_classes: int, *, source: str) -> None:
    """Raise ValueError if the white of grey labels of one bit may mean 255 as well as class 1.

    Of two classes it is the second, as in masks that are saved as booleans. Of more classes such a file usually holds
    0 and 255, which programs that make files smaller store as 0 and 1.

    labels: as they are stored, 0 and 1. source: where they come from, for the message.
    """
    if num_classes > 2 and labels.any():
        raise ValueError(
            f"the labels {source} are black and white, 1 bit a pixel, so that white may mean class 1 or 255 (void) "
            f"among {num_classes} classes: write them with 8 bits a pixel, or as a palette picture"
        )


def likely_cause(present: list[int], undeclared: list[int], num_classes: int, ignore_label: int) -> str:
    """What undeclared labels usually come from, and the way out.

    present: the labels in a picture; undeclared: those of them that are no class and not the ignore label.
    """
    if undeclared == [num_classes] and 0 not in present:
        return (
            "The labels seem to start at 1: write them from 0 on, or give the data set's records a label_map "
            f"({{1: 0, 2: 1, ..., {num_classes}: {num_classes - 1}, 0: {ignore_label}}})"
        )
    if undeclared == [num_classes]:
        shifted = f"{{0: {ignore_label}, 1: 0, ..., {num_classes}: {num_classes - 1}}}"
        return (
            f"Is label 0 or {num_classes} a class too? Then set MODEL.SEM_SEG_HEAD.NUM_CLASSES to {num_classes + 1}. "
            f"Is {num_classes} void? Then write {ignore_label} instead, or give the data set's records a label_map "
            f"({{{num_classes}: {ignore_label}}}). "
            f"Do the classes start at 1, and is 0 void? Then a label_map ({shifted})"
        )
    if undeclared == [254]:
        return (
            "254 is what 'minus one' makes of a raw 255, which the official files do not have: these files have been "
            "through 'minus one' before, and it is applied on reading; point the data set at the original labels"
        )
    if undeclared == [255]:
        return (
            "255 usually marks void pixels: set MODEL.SEM_SEG_HEAD.IGNORE_VALUE, and the data set's ignore_label, "
            "to 255"
        )
    if len(undeclared) > 8 and undeclared[-1] >= 2 * num_classes:
        return (
            "So many values beyond the classes look like grey levels or colours, not like class indexes: is this the "
            "picture for people? Data sets often come with both"
        )
    return (
        "Is MODEL.SEM_SEG_HEAD.NUM_CLASSES that of this data set? Values that mark void pixels become the ignore "
        f"label by a label_map in the data set's records ({{{undeclared[-1]}: {ignore_label}}})"
    )


def _read_label_file(path: str) -> tuple[np.ndarray, str]:
    """The labels as they are stored: (H, W) uint8, and the picture's mode."""
    labels, header = read_values(path, what="labels")
    if labels.ndim != 2:
        if (labels == labels[:, :, :1]).all():
            raise ValueError(
                f"the labels {path} are a picture with {labels.shape[2]} channels (mode {header.mode}), which are all "
                "equal; expected one channel of class indexes: write one of them"
            )
        raise ValueError(
            f"the labels {path} are a picture with {labels.shape[2]} channels (mode {header.mode}); "
            "expected one channel of class indexes, grey or palette: is this the picture for people? Data sets often "
            "come with both; where there is no other, docs/datasets.md has lines that make indexes of its colours"
        )
    if labels.dtype != np.uint8:
        if labels.min() < 0 or labels.max() > 255:
            raise ValueError(
                f"the labels {path} (mode {header.mode}) reach from {labels.min()} to {labels.max()}; expected class "
                "indexes in 0..255: are these instance ids, or depth? Data sets often come with both"
            )
        labels = labels.astype(np.uint8)
    return labels, header.mode
