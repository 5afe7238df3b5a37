"""COCO's masks: run lengths, compressed or not, and polygons, checked before anything is made of them.

pycocotools trusts what it is given: run lengths beyond the mask make it read and write foreign memory, coordinates
without bounds end the process or keep it busy for ever. Run lengths are in the order of columns, zeros first. Source of
the compressed form: rleFrString of its maskApi.c (6 bits a character from "0" on, the lowest 5 first, bit 5: more
follow, the last one's bit 4: the sign; from the fourth length on, the difference to the one before the last).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

MAX_CHARACTERS = 7  # of one length; 35 bits


def decode(segmentation: object, height: int, width: int) -> np.ndarray:
    """Mask: (H, W) uint8 in {0, 1}.

    segmentation: {"size": [H, W], "counts": text, bytes or a list}, or a list of polygons [x, y, x, y, ...].

    ValueError: it is neither, of another size, or its lengths or coordinates do not fit into it.
    """
    if isinstance(segmentation, list):
        _check_polygons(segmentation, height, width)
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError("a mask that is neither run lengths (size, counts) nor polygons")
    size, counts = segmentation["size"], segmentation["counts"]
    size = tuple(size) if isinstance(size, list) else size
    if size != (height, width):
        raise ValueError(f"a mask of {size} (height, width), but the image is {(height, width)}")
    lengths = _from_list(counts) if isinstance(counts, list) else _from_text(counts)
    if (lengths < 0).any() or (lengths > height * width).any() or lengths.sum() != height * width:
        raise ValueError(f"a mask whose run lengths do not add up to its {height} x {width} pixels")
    return np.repeat(np.arange(len(lengths), dtype=np.uint8) % 2, lengths).reshape(width, height).T


def _from_list(counts: Sequence[object]) -> np.ndarray:
    if not all(type(count) is int and abs(count) < 1 << 40 for count in counts):
        raise ValueError("a mask whose run lengths are no whole numbers")
    return np.array(counts, np.int64)


def _from_text(counts: object) -> np.ndarray:
    """The lengths: (N,) int64, which may be negative where the text is not COCO's."""
    data = counts.encode("latin-1", "replace") if isinstance(counts, str) else counts
    if not isinstance(data, bytes):
        raise ValueError("a mask whose run lengths are neither text nor a list")
    characters = np.frombuffer(data, np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero((characters & 32) == 0)  # of each number
    sizes = np.diff(last, prepend=-1)
    if not len(last) or last[-1] != len(characters) - 1 or sizes.max() > MAX_CHARACTERS or not _in_six_bits(characters):
        raise ValueError("a mask whose run lengths are cut off or damaged")
    places = np.arange(len(characters)) - np.repeat(last - sizes + 1, sizes)
    values = np.add.reduceat((characters & 31) << (5 * places), last - sizes + 1)
    values -= np.where(characters[last] & 16, 1 << (5 * sizes), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _in_six_bits(characters: np.ndarray) -> bool:
    return bool(characters.min() >= 0 and characters.max() < 64)


def _check_polygons(polygons: list, height: int, width: int) -> None:
    """ValueError: no polygons, or corners that are no finite numbers, or far outside the image."""
    if not polygons:
        raise ValueError("a mask without a polygon")
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon that is not three corners or more, [x, y, x, y, ...]")
        if not all(type(value) in (int, float) for value in polygon):
            raise ValueError("a polygon whose coordinates are no numbers")
        if not (np.abs(polygon) <= 2 * max(height, width)).all():  # NaN is not, either
            raise ValueError(f"a polygon with corners far outside the image of {height} x {width} pixels")
