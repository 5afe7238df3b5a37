"""What is wrong with a data set, in plain words and with the way out: every file of a sample is read, in parallel.

What it looks for is what people ask about most: labels that are no class, 255 that is meant to
be one, "minus one" applied twice, pictures for people taken for labels, cut-off files, images of two splits. A fault
never stops the reading. Messages about one file are those of reading.py, which training raises too.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from scaleeq.workers import map_in_processes

from ..instances import Instances, read_objects
from ..maps import KEYS as MAP_KEYS
from ..maps import read_map
from ..panoptic_file import has_panoptic, read_panoptic
from ..picture_file import Header, read_header
from ..reading import (
    check_labels,
    check_one_bit,
    check_same_size,
    has_labels,
    read_image,
    read_instances,
    read_labels,
)
from ..sets.catalog import IGNORE_LABEL, Record
from .axes import compare_axes

DARK = 16  # of 256 grey levels; what 12 bits, stored in 16, come to
# Interpolation leaves values between two classes at their border. Measured on CamVid's labels and the toy scenes': of
# all changes along rows, 1 % are such steps; 7 % after shrinking tenfold by nearest; 16 to 56 % after linear
# interpolation by factors from 0.4 to 3. (Shrinking further between two pixels alone leaves too few to tell.)
INTERPOLATED_SHARE = 0.15
INTERPOLATED_MIN_CHANGES = 100


@dataclass(frozen=True)
class Complaint:
    """Of one file. kind: a key of findings.KINDS. message: names the file, the value and the way out."""

    kind: str
    file: str
    message: str


@dataclass
class Look:
    """What the files of one record hold.

    shape: (height, width) of the image, None where it cannot be read. channels: as PIL names them.
    counts: (256,) int64 pixels of each label, None where there are none or they cannot be read.
    maps: key -> (height, width) of each map of another task that could be read.
    objects: where there are some; has_panoptic: whether there are panoptic segments that fit.
    axes: of axes.compare_axes, where there are normals and depth. flipped: axes of normals that normals.txt turns.
    """

    shape: tuple[int, int] | None = None
    channels: str = ""
    counts: np.ndarray | None = None
    maps: dict[str, tuple[int, ...]] = field(default_factory=dict)
    objects: Instances | None = None
    has_panoptic: bool = False
    axes: np.ndarray | None = None
    flipped: tuple[int, ...] = ()
    complaints: list[Complaint] = field(default_factory=list)


@dataclass
class Totals:
    """The looks at many records, added up.

    pixels, images: (256,) int64, pixels of each label, and images that have it. with_labels: label files read.
    maps: key -> images that have such a map. axes: sums of axes.compare_axes, of compared images.
    """

    read: int = 0
    with_labels: int = 0
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    images: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    channels: Counter[str] = field(default_factory=Counter)
    maps: Counter[str] = field(default_factory=Counter)
    num_objects: int = 0
    num_crowds: int = 0
    with_objects: int = 0
    with_panoptic: int = 0
    axes: np.ndarray = field(default_factory=lambda: np.zeros((4, 2)))
    compared: int = 0
    flipped: tuple[int, ...] = ()
    complaints: list[Complaint] = field(default_factory=list)

    def add(self, look: Look) -> None:
        self.read += 1
        self.complaints += look.complaints
        self.maps.update(look.maps.keys())
        self.with_panoptic += look.has_panoptic
        if look.objects is not None and len(look.objects):
            self.num_objects += len(look.objects)
            self.num_crowds += int(look.objects.crowd.sum())
            self.with_objects += 1
        if look.axes is not None:
            self.axes += look.axes
            self.compared += 1
            self.flipped = look.flipped
        if look.shape is not None:
            self.shapes[look.shape] += 1
            self.channels[look.channels] += 1
        if look.counts is not None:
            self.with_labels += 1
            self.pixels += look.counts
            self.images += look.counts > 0


def sample_evenly(size: int, count: int, seed: int = 0) -> list[int]:
    """`count` of the indexes 0..size-1, ascending: one drawn from each of `count` equal parts."""
    if count >= size:
        return list(range(size))
    rng = np.random.default_rng([seed, size, count])
    edges = np.arange(count + 1) * size // count
    return [int(rng.integers(low, high)) for low, high in itertools.pairwise(edges)]


def read_all(
    records: Sequence[Record],
    *,
    num_classes: int,
    ignore_label: int = IGNORE_LABEL,
    workers: int | None = None,
    title: str = "",
) -> Totals:
    """Look at every record, in processes.

    workers: None: one a core; 0 or 1: in this process. title: of the progress bar, which a terminal shows.
    """
    totals = Totals()
    work = functools.partial(look_at, num_classes=num_classes, ignore_label=ignore_label)
    workers = min((os.cpu_count() or 1) if workers is None else workers, len(records))
    chunksize = max(1, min(16, len(records) // (4 * max(workers, 1))))
    looks = map_in_processes(work, records, workers, chunksize=chunksize)
    for look in tqdm(looks, total=len(records), desc=title, unit="image", disable=None):
        totals.add(look)
    return totals


def look_at(record: Record, *, num_classes: int, ignore_label: int = IGNORE_LABEL) -> Look:
    """Read a record's files and say all that is wrong with them; never raises for what a file holds."""
    look = Look()
    look.complaints += _look_at_image(record, look)
    if has_labels(record):
        look.complaints += _look_at_labels(record, look, num_classes, ignore_label)
        look.complaints += _look_at_instances(record, look)
    look.complaints += _look_at_objects(record, look)
    look.complaints += _look_at_panoptic(record, look)
    known: dict[str, np.ndarray] = {}
    for key in MAP_KEYS:
        look.complaints += _look_at_map(record, look, key, known)
    if {"depth", "normals"} <= known.keys() and known["depth"].shape == known["normals"].shape[:2]:
        look.axes = compare_axes(known["normals"], known["depth"])
        look.flipped = tuple(record.get("normals_flip", ()))
    return look


def _look_at_image(record: Record, look: Look) -> Iterable[Complaint]:
    name = record["file_name"]
    # Read the file.
    try:
        image = read_image(record)
        header = None if "read" in record or "read_image" in record else read_header(name)
    except OSError as error:
        yield Complaint("unreadable image", name, str(error))
        return
    except ValueError as error:
        yield Complaint("no image", name, str(error))
        return
    # What it is.
    look.shape, look.channels = image.shape[:2], "RGB"
    if header is None:
        return
    look.channels = header.mode
    # Unused grey levels.
    if header.bits > 8:
        brightest, mode = int(image.max()), header.mode
        message = f"{name} has {header.bits} bits a channel (mode {mode}); its upper 8 are read"
        if brightest < DARK:
            yield Complaint(
                "dark image",
                name,
                f"{message}, which are 0..{brightest} of 0..255: are its values of 10 or 12 bits? Scale them to all of "
                "0..65535, or write 8 bits",
            )
        else:
            yield Complaint("deep image", name, message)
    yield from _look_at_orientation(record, header.orientation)


def _look_at_orientation(record: Record, turned: int) -> Iterable[Complaint]:
    """turned: the image's EXIF orientation."""
    name, label_file = record["file_name"], record.get("sem_seg_file_name")
    if turned == 1 or not label_file or not os.path.isfile(label_file):
        return
    try:
        labels_turned = read_header(label_file).orientation
    except (OSError, ValueError):
        return  # told where the labels are looked at
    if labels_turned != turned:
        yield Complaint(
            "turned image",
            name,
            f"{name} has the EXIF orientation {turned} and is turned on reading, its labels have {labels_turned}: "
            "are they drawn on the turned picture? Look at the contact sheet",
        )


def _look_at_labels(record: Record, look: Look, num_classes: int, ignore_label: int) -> Iterable[Complaint]:
    name = str(record.get("sem_seg_file_name", record["file_name"]))
    # Read the file.
    header = None
    try:
        header = None if "read" in record else read_header(name)
        labels = read_labels(record)
        if header is not None and header.mode == "1":
            check_one_bit(labels, num_classes, source=name)
    except OSError as error:
        yield Complaint("unreadable labels", name, str(error))
        return
    except ValueError as error:
        yield Complaint("lossy" if header is not None and header.lossy else "no labels", name, str(error))
        return
    # Values and size.
    look.counts = np.bincount(labels.ravel(), minlength=256)
    for kind, check in (
        ("undeclared", lambda: check_labels(labels, num_classes, ignore_label, source=name)),
        ("size", lambda: None if look.shape is None else check_same_size(record, look.shape, labels.shape)),
    ):
        try:
            check()
        except ValueError as error:
            yield Complaint(kind, name, str(error))
    # What may be meant otherwise.
    if header is not None and header.bits < 8 and header.mode != "P":
        yield _about_few_bits(name, header)
    if look.counts[ignore_label] == labels.size:
        yield Complaint("all void", name, f"all pixels of {name} are void ({ignore_label}): nothing to learn from it")
    if is_interpolated(labels):
        yield Complaint(
            "interpolated",
            name,
            f"{name} has values between those of neighbouring classes at their borders, as interpolation leaves them: "
            "resize the original labels by nearest (cv2.INTER_NEAREST, Image.Resampling.NEAREST), or not at all",
        )


def _about_few_bits(name: str, header: Header) -> Complaint:
    most = (1 << header.bits) - 1
    return Complaint(
        "few bits",
        name,
        f"{name} is grey of {header.bits} bits a pixel; its values are read as they are stored, as the classes "
        f"0..{most}. Where 255 was meant, as some programs store it, it is class {most} now: write 8 bits a pixel then",
    )


def _look_at_instances(record: Record, look: Look) -> Iterable[Complaint]:
    name = record.get("instance_file_name", "")
    try:
        instances = read_instances(record)
    except (OSError, ValueError) as error:
        yield Complaint("instances", name, str(error))
        return
    if instances is not None and look.shape not in (None, instances.shape):
        yield Complaint("instances", name, f"{name} is {instances.shape} (height, width), its image {look.shape}")


def _look_at_objects(record: Record, look: Look) -> Iterable[Complaint]:
    name = record["file_name"]
    if look.shape is None or "segments_info" in record:  # those are looked at as panoptic segments
        return
    try:
        look.objects = read_objects(record, look.shape)
        if look.objects is not None:
            look.objects.sample()  # masks are decoded
    except (OSError, ValueError) as error:
        look.objects = None
        yield Complaint("objects", name, str(error))
        return
    if look.objects is not None and len(look.objects) < len(record.get("annotations", ())):
        yield Complaint(
            "no area",
            name,
            f"{len(record['annotations']) - len(look.objects)} boxes of {name} have a width or a height of 0: they are "
            "left out, in training and in evaluation",
        )


def _look_at_panoptic(record: Record, look: Look) -> Iterable[Complaint]:
    if not has_panoptic(record):
        return
    name = str(record.get("panoptic_file_name", record["file_name"]))
    try:
        ids, _ = read_panoptic(record)
    except (OSError, ValueError) as error:
        yield Complaint("panoptic", name, str(error))
        return
    if look.shape not in (None, ids.shape):
        yield Complaint("panoptic", name, f"{name} is {ids.shape} (height, width), its image {look.shape}")
        return
    look.has_panoptic = True
    if look.shape is not None and "segments_info" in record:
        look.objects = read_objects(record, look.shape)


def _look_at_map(record: Record, look: Look, key: str, known: dict[str, np.ndarray]) -> Iterable[Complaint]:
    """Depth, normals and the like. known: key -> its values, filled here."""
    name = str(record.get(f"{key}_file_name", record["file_name"]))
    try:
        values = read_map(record, key)
    except OSError as error:
        yield Complaint("unreadable map", name, str(error))
        return
    except ValueError as error:
        yield Complaint("wrong map", name, str(error))
        return
    if values is None:
        return
    look.maps[key], known[key] = values.shape[:2], values
    if look.shape is not None and look.shape != values.shape[:2]:
        try:
            check_same_size(record, look.shape, values.shape[:2], key=key)
        except ValueError as error:
            yield Complaint("map size", name, str(error))
    unknown = values == (0 if key in ("depth", "normals") else IGNORE_LABEL)
    if unknown.all():
        yield Complaint(
            "empty map",
            name,
            f"nothing is known in any pixel of the {key} {name}: nothing to learn from it. Write it again, or "
            "delete it",
        )


def is_interpolated(labels: np.ndarray) -> bool:
    """Whether labels: (H, W) uint8 look as if they were resized as an image is, not by nearest."""
    left, middle, right = labels[:, :-2], labels[:, 1:-1], labels[:, 2:]
    steps = ((left < middle) & (middle < right)) | ((left > middle) & (middle > right))
    changes = np.count_nonzero(left != middle)
    smooth = changes <= labels.size / 4  # noise is something else
    return bool(smooth and changes >= INTERPOLATED_MIN_CHANGES and steps.sum() > INTERPOLATED_SHARE * changes)
