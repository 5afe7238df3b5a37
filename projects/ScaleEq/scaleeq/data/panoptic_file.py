"""COCO's panoptic truth: a picture whose colours are ids, and the list of its segments.

A record has "panoptic_file_name" and "segments_info" (id, category_id: a label of the data set, iscrowd), or
"read_panoptic", a function without arguments -> ids (H, W) int32 and that list. Id 0 is void.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scaleeq.pictures import ids_of_colors
from scaleeq.records import Json, JsonView

from .picture_file import read_rgb
from .sets.catalog import IGNORE_LABEL, Record

Segments = Sequence[JsonView]


def has_panoptic(record: Record) -> bool:
    """Whether the record comes with panoptic segments."""
    return "read_panoptic" in record or "panoptic_file_name" in record


def read_panoptic(record: Record) -> tuple[np.ndarray, Segments]:
    """Ids (H, W) int32, 0 void, and their segments.

    ValueError, naming the file: ids in the picture and in the list that are not the same. OSError: no such picture.
    """
    if "read_panoptic" in record:
        return record["read_panoptic"]()
    path, segments = str(record["panoptic_file_name"]), record["segments_info"]
    ids = ids_of_colors(read_rgb(path))
    check_ids(ids, segments, source=path)
    return ids, segments


def check_ids(ids: np.ndarray, segments: Segments, *, source: str) -> None:
    """ValueError: the ids of a picture and those of its list are not the same."""
    there, listed = set(np.unique(ids).tolist()) - {0}, [int(segment["id"]) for segment in segments]
    way = "ids are R + 256 G + 65536 B of its colours, 0 is void: is it a picture of another version, or resized?"
    if strange := sorted(there - set(listed)):
        raise ValueError(f"the panoptic picture {source} has the ids {_few(strange)}, which no segment has; {way}")
    if missing := sorted(set(listed) - there):
        raise ValueError(
            f"the panoptic picture {source} has no pixel of the segments {_few(missing)} of its list; {way}"
        )
    if len(set(listed)) < len(listed):
        raise ValueError(f"the segments of the panoptic picture {source} have an id twice: give each its own")


def _few(ids: Sequence[int], shown: int = 3) -> str:
    return ", ".join(map(str, ids[:shown])) + (", ..." if len(ids) > shown else "")


def thing_masks(ids: np.ndarray, segments: Segments, things: Sequence[int]) -> list[Json]:
    """The segments of things: category_id from 0 on, in the order of their labels in `things`, mask, bbox, iscrowd."""
    found = []
    for segment in segments:
        if segment["category_id"] in things:
            mask = ids == segment["id"]
            category, crowd = list(things).index(segment["category_id"]), segment.get("iscrowd", 0)
            found.append({"category_id": category, "mask": mask, "bbox": box_of(mask), "iscrowd": crowd})
    return found


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """mask: (H, W), not empty -> left, top, right, bottom in pixels, ends excluded."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def labels_of(ids: np.ndarray, segments: Segments) -> np.ndarray:
    """(H, W) uint8: the label of each pixel's segment, 255 for void and crowds."""
    listed = [0, *(int(segment["id"]) for segment in segments)]
    values = [IGNORE_LABEL]
    values += [IGNORE_LABEL if segment.get("iscrowd") else int(segment["category_id"]) for segment in segments]
    order = np.argsort(listed)
    places = np.searchsorted(np.array(listed)[order], ids.ravel())
    return np.array(values, np.uint8)[order][places].reshape(ids.shape)
