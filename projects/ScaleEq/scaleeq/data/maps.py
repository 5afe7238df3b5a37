"""A record's maps of values beside its labels, as arrays: depth, normals, edges, saliency, human parts.

A record has a map as a file, "<key>_file_name", or as a function without arguments, "read_<key>". Values that cannot be
meant (millimetres read as metres, vectors that are not of unit length, inverted edges) are refused where they are read,
by the file's name and with the way out. Pixels of which nothing is known stay so: depth 0, normals (0, 0, 0), 255.

Normals are x to the right, y down and z into the scene, of surfaces towards the camera: z is negative.
"""

from __future__ import annotations

import json
import os

import numpy as np

from .matlab import read_context_edges, read_person_parts
from .picture_file import read_rgb, read_values, require_file
from .sets.catalog import IGNORE_LABEL, Record

KEYS = ("depth", "normals", "edges", "saliency", "human_parts")
MILLIMETRE = 0.001
# A room and a street are nearer than this in the median, millimetres of a room are not. A unit that is given counts.
FARTHEST_MEDIAN_M = 100.0
NEAREST_MEDIAN_M = 0.05  # whole metres read as millimetres are nearer
UINT16_MAX = 65535
KNOWN_LENGTH = 0.5  # shorter vectors are no directions: 8 bits cannot store 0
UNIT_LENGTHS = (0.8, 1.2)  # of the median vector; 8 bits and bilinear resizing stay inside
MOST_EDGES = 0.5  # share of the pixels
PARTS = ("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")


def has_map(record: Record, key: str) -> bool:
    """Whether the record comes with that map. key: of KEYS."""
    return f"read_{key}" in record or f"{key}_file_name" in record


def read_map(record: Record, key: str) -> np.ndarray | None:
    """The record's map under the key, of KEYS; None: it has none.

    Returns depth (H, W) float32 in metres, 0: unknown; normals (H, W, 3) float32 of length 1, or 0: unknown; edges and
    saliency (H, W) uint8, 0, 1 or 255: unknown; human parts (H, W) uint8, the part or 255.
    ValueError, naming the file: values that cannot be meant. OSError: a file that cannot be read.
    """
    if not has_map(record, key):
        return None
    source = str(record.get(f"{key}_file_name", record["file_name"]))
    if f"read_{key}" in record:
        values = record[f"read_{key}"]().copy()  # the function may keep its own
    else:
        values = _READERS[key](source, record)
    return _CHECKS[key](values, source, record)


# --- depth ---


def _read_depth(path: str, record: Record) -> np.ndarray:
    """(H, W) float32 in metres.

    record: "depth_unit", metres, is what 1 means in the file: by default 1 in .npy files, 0.001 in pictures of whole
    numbers. "camera_file_name": the file holds disparities, of this camera (Cityscapes).
    """
    if path.lower().endswith(".npy"):
        values = load_npy(path)
        values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
        if values.dtype.itemsize < 2:
            raise ValueError(
                f"the depth {path} has 8 bits a pixel ({values.dtype}), too few for distances: is this a picture for "
                "people? Write float32, in metres"
            )
        return _plane(values, path, "depth").astype(np.float32) * np.float32(record.get("depth_unit", 1.0))
    values, header = read_values(path, what="depth")
    if _plane(values, path, "depth").dtype == np.uint8 or header.bits < 16:
        raise ValueError(
            f"the depth {path} has {header.bits} bits a pixel, too few for distances: is this a picture for people? "
            "Write 16 bits, in millimetres, or .npy in metres"
        )
    if "camera_file_name" in record:
        depth = _depth_of_disparity(values, str(record["camera_file_name"]))
        if "depth_void_labels" in record:  # raw ones, of what has no depth
            raw, _ = read_values(record["sem_seg_file_name"], what="labels")
            depth[np.isin(raw, record["depth_void_labels"])] = 0
        return depth
    if (share := float((values == UINT16_MAX).mean())) > 0:
        raise ValueError(
            f"the depth {path} holds {UINT16_MAX}, the largest number of 16 bits, in {100 * share:.3g} % of the "
            "pixels: does it mean unknown, or too far? Write 0 there"
        )
    return values.astype(np.float32) * np.float32(record.get("depth_unit", MILLIMETRE))


def _depth_of_disparity(raw: np.ndarray, camera: str) -> np.ndarray:
    """raw: (H, W) as Cityscapes stores it, 0: unknown, else disparity * 256 + 1 -> metres; 0 also where it is 0."""
    require_file(camera)
    try:
        with open(camera, encoding="utf-8") as file:
            content = json.load(file)
        factor = float(content["extrinsic"]["baseline"]) * float(content["intrinsic"]["fx"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the camera {camera} has no extrinsic.baseline and intrinsic.fx ({error!r}), by which disparity becomes "
            "depth; unpack camera_trainvaltest.zip again"
        ) from error
    disparity = (raw.astype(np.float32) - 1) / 256
    return np.divide(factor, disparity, out=np.zeros_like(disparity), where=disparity > 0)


def check_depth(depth: np.ndarray, source: str, record: Record | None = None) -> np.ndarray:
    """depth: (H, W) in metres -> the same, float32. ValueError: it cannot be."""
    wrong = ~np.isfinite(depth) | (depth < 0)
    if wrong.any():
        first = depth[wrong][0]
        raise ValueError(
            f"the depth {source} holds {np.count_nonzero(wrong)} values that are no distance, the first is {first:g}; "
            "write 0 where nothing is known"
        )
    known = depth[depth > 0]
    if known.size and not {"depth_unit", "camera_file_name"} & (record or {}).keys():
        middle = float(np.median(known))
        if middle > FARTHEST_MEDIAN_M:
            raise ValueError(
                f"the depth {source} has a median of {middle:.0f} m: it looks like millimetres. Write "
                "metres, or say what 1 means: depth.txt with 0.001 in a folder data set, depth_unit in a record"
            )
        if middle < NEAREST_MEDIAN_M:
            raise ValueError(
                f"the depth {source} has a median of {1000 * middle:.2g} mm: is 1 no millimetre in it, or no metre "
                "(.npy)? Say what 1 means, in metres: depth.txt in a folder data set, depth_unit in a record"
            )
    return depth.astype(np.float32, copy=False)


# --- directions ---


def _read_normals(path: str, record: Record) -> np.ndarray:
    """(H, W, 3) float32, as they are stored; a picture of 8 bits stores (n + 1) / 2 * 255."""
    if not path.lower().endswith(".npy"):
        return read_rgb(path).astype(np.float32) * np.float32(2 / 255) - 1
    values = load_npy(path)
    if values.ndim != 3 or values.shape[2] != 3:
        raise ValueError(f"the normals {path} are of shape {values.shape}; expected (height, width, 3)")
    return values.astype(np.float32)


def check_normals(normals: np.ndarray, source: str, record: Record | None = None) -> np.ndarray:
    """normals: (H, W, 3) -> of length 1, or 0 where they are unknown. ValueError: they are no directions.

    record: "normals_flip", the axes (of 0, 1, 2) whose sign the source has the other way round.
    """
    length = np.linalg.norm(normals, axis=2, keepdims=True)
    if normals.any() and normals.min() >= 0 and normals.max() <= 1:  # no scene has that: z is negative
        raise ValueError(
            f"the normals {source} are all in 0..1: is this (n + 1) / 2? Write 2 x - 1, or a PNG of 8 bits, which is "
            "read so"
        )
    if not np.isfinite(length).all():
        raise ValueError(f"the normals {source} hold NaN or infinity; write (0, 0, 0) where nothing is known")
    known = length > KNOWN_LENGTH
    typical = float(np.median(length[length > 0.1])) if (length > 0.1).any() else 1.0
    if typical > 2:
        raise ValueError(
            f"the normals {source} have a median length of {typical:.0f}: values of 0..255? Write x / 127.5 - 1, or a "
            "PNG of 8 bits, which is read so"
        )
    if not UNIT_LENGTHS[0] <= typical <= UNIT_LENGTHS[1]:
        raise ValueError(
            f"the normals {source} have a median length of {typical:.2f}: divide them by it; of length 1 they are "
            "directions, (0, 0, 0) means unknown"
        )
    unit = np.divide(normals, length, out=np.zeros_like(normals, np.float32), where=known)
    for axis in (record or {}).get("normals_flip", ()):
        unit[..., axis] *= -1
    return unit


# --- marks: edges and saliency; parts ---


def _read_marks(path: str, record: Record) -> np.ndarray:
    """(H, W), as they are stored; edges of a .mat file are those of Pascal-Context's labels."""
    if path.lower().endswith(".mat"):
        return read_context_edges(path)
    if path.lower().endswith(".npy"):
        return _plane(load_npy(path), path, "map")
    return _plane(read_values(path, what="edges")[0], path, "map")


def _read_parts(path: str, record: Record) -> np.ndarray:
    """(H, W), as they are stored; of a .mat file, PASCAL-Part's people in six parts."""
    return read_person_parts(path) if path.lower().endswith(".mat") else _read_marks(path, record)


def check_edges(values: np.ndarray, source: str, record: Record | None = None) -> np.ndarray:
    """values: (H, W), 0 and 1, with 255 unknown, or 0 and 255 alone -> (H, W) uint8, 0, 1 or 255.

    ValueError: soft edges, or more edges than not.
    """
    found = np.unique(values)
    edges = values == found[-1] if set(found) <= {0, 255} and found[-1] else values
    if len(strange := found[~np.isin(found, (0, 1, 255))]):
        raise ValueError(
            f"the edges {source} hold values beside 0 and 1 (or 255), such as {strange[0]:g}: "
            "are they soft, or resized as an image? Write 1 where there is an edge"
        )
    share = float((edges == 1).mean())
    if share > MOST_EDGES:
        raise ValueError(
            f"the edges {source} cover {100 * share:.0f} % of the pixels: are they inverted? An edge is 1 (or 255), "
            "the rest 0"
        )
    return edges.astype(np.uint8)


def check_saliency(values: np.ndarray, source: str, record: Record | None = None) -> np.ndarray:
    """values: (H, W), 0 and 1 with 255 unknown, or grey levels, of which those above 127 are salient -> uint8."""
    if values.ndim != 2 or not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
        raise ValueError(f"the saliency {source} holds values outside 0..255; write 0 and 1, or grey levels")
    if set(np.unique(values)) <= {0, 1, 255} and (values == 1).any():
        return values.astype(np.uint8)
    return (values > (127 if values.max() > 1 else 0.5)).astype(np.uint8)


def check_parts(values: np.ndarray, source: str, record: Record | None = None) -> np.ndarray:
    """values: (H, W), a part of at most 255, or 255 for unknown -> uint8."""
    if values.min() < 0 or values.max() > IGNORE_LABEL:
        raise ValueError(f"the human parts {source} reach from {values.min()} to {values.max()}; expected 0..255")
    if len(strange := np.setdiff1d(values, (*range(len(PARTS)), IGNORE_LABEL))):
        raise ValueError(
            f"the human parts {source} hold {strange[0]:g}, which is no part: 0 {PARTS[0]}, 1 {PARTS[1]} ... "
            f"{len(PARTS) - 1} {PARTS[-1]}, {IGNORE_LABEL} unknown. Give each pixel one of these"
        )
    return values.astype(np.uint8)


def read_npy_pair(image: str, labels: str) -> tuple[np.ndarray, np.ndarray]:
    """LibMTL's arrays: image (H, W, 3) uint8 of shares (H, W, 3); labels (H, W) uint8 of whole numbers, -1: void."""
    raw, shares = load_npy(labels), load_npy(image)
    if shares.ndim != 3 or shares.shape[2] != 3 or shares.max() > 1 or shares.min() < 0:
        raise ValueError(
            f"the image {image} is of shape {shares.shape}, from {shares.min():g} to {shares.max():g}; expected "
            "(height, width, 3) in 0..1"
        )
    if (raw != np.rint(raw)).any() or raw.min() < -1:
        raise ValueError(f"the labels {labels} hold values that are no whole numbers from -1 on: write the indexes")
    return np.rint(shares * 255).astype(np.uint8), np.where(raw < 0, IGNORE_LABEL, raw).astype(np.uint8)


def load_npy(path: str) -> np.ndarray:
    """The array of a .npy file; OSError: it cannot be read."""
    require_file(path)
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise OSError(
            f"{path} cannot be read: {os.path.getsize(path)} bytes, {error}. Write it by numpy.save"
        ) from error


def _plane(values: np.ndarray, path: str, what: str) -> np.ndarray:
    if values.ndim != 2:
        raise ValueError(f"the {what} {path} is of shape {values.shape}; expected one channel, (height, width)")
    return values


_READERS = {
    "depth": _read_depth,
    "normals": _read_normals,
    "edges": _read_marks,
    "saliency": _read_marks,
    "human_parts": _read_parts,
}
_CHECKS = {
    "depth": check_depth,
    "normals": check_normals,
    "edges": check_edges,
    "saliency": check_saliency,
    "human_parts": check_parts,
}
