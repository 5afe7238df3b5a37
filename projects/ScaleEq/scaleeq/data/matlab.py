"""Arrays of MATLAB's files of dense tasks: NYU Depth v2, Pascal-Context, PASCAL's parts."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import cv2
import numpy as np

from .picture_file import require_file
from .sets.catalog import IGNORE_LABEL
from .thinning import thin

NYU_FILE, NYU_MAP = "nyu_depth_v2_labeled.mat", "classMapping40.mat"
NUM_RAW = 895  # NYU's raw labels: 0, void, and 894 classes
PERSON = 15  # of VOC's classes
PARTS = {
    1: ("head", "hair", "leye", "reye", "lear", "rear", "lebrow", "rebrow", "nose", "mouth"),
    2: ("torso", "neck"),
    3: ("luarm", "ruarm"),
    4: ("llarm", "rlarm", "lhand", "rhand"),
    5: ("luleg", "ruleg"),
    6: ("llleg", "rlleg", "lfoot", "rfoot"),
}


def load_mat(path: str) -> dict[str, Any]:
    """The variables of a file of MATLAB 5; OSError: it cannot be read."""
    require_file(path)
    scipy_io = importlib.import_module("scipy.io")
    try:
        return scipy_io.loadmat(path)
    except Exception as error:  # a damaged file makes scipy raise nearly anything
        raise OSError(f"{path} cannot be read: it seems to be cut off or damaged ({error}). Copy it again") from error


def variable(path: str, name: str) -> np.ndarray:
    """ValueError: the file has no such variable."""
    content = load_mat(path)
    if name not in content:
        own = ", ".join(sorted(key for key in content if not key.startswith("_")))
        raise ValueError(f"{path} has no variable {name}, it has {own}: is it another file?")
    return content[name]


# --- NYU Depth v2 ---


def nyu_array(path: str, name: str, number: int) -> np.ndarray:
    """Of an image, by its number from 1 on: (480, 640), or (480, 640, 3); MATLAB's axes are reversed in HDF5."""
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError(f"{path} is read by h5py, which is not installed: pip install h5py") from error
    require_file(path)
    try:
        with h5py.File(path, "r") as file:
            return np.ascontiguousarray(file[name][number - 1].T)
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise OSError(f"{path} cannot be read: it has no {name} of image {number} ({error}). Copy it again") from error


def read_nyu_image(path: str, *, number: int) -> np.ndarray:
    """(480, 640, 3) uint8 in RGB."""
    return nyu_array(path, "images", number)


def read_nyu_depth(path: str, *, number: int) -> np.ndarray:
    """(480, 640) float32 in metres, as the sensor has it: 0 where it saw nothing ("depths" are filled in)."""
    return nyu_array(path, "rawDepths", number).astype(np.float32)


def read_nyu_pair(path: str, mapping: str, *, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Image, and labels: (480, 640) uint8 of 40 classes, 255: void."""
    return read_nyu_image(path, number=number), nyu_table(mapping)[nyu_array(path, "labels", number)]


@functools.lru_cache(maxsize=4)
def nyu_table(path: str) -> np.ndarray:
    """(895,) uint8: the label of each raw one. ValueError: the file is no map of 894 classes to 40."""
    classes = variable(path, "mapClass").ravel()
    if len(classes) != NUM_RAW - 1 or classes.min() < 1 or classes.max() > 40:
        raise ValueError(
            f"{path} maps {len(classes)} classes to {classes.min()}..{classes.max()}; expected 894 to 1..40"
        )
    return np.concatenate([[IGNORE_LABEL], classes - 1]).astype(np.uint8)


def read_split(path: str, name: str) -> list[int]:
    """Numbers of images from 1 on."""
    return [int(number) for number in variable(path, name).ravel()]


# --- PASCAL ---


def read_context_edges(path: str) -> np.ndarray:
    """(H, W) uint8, 0 or 1: where the Laplacian of Pascal-Context's LabelMap is not 0, thinned (ASTMT)."""
    change = cv2.Laplacian(variable(path, "LabelMap").astype(np.float64), cv2.CV_64F) != 0
    return thin(change).astype(np.uint8)


def read_person_parts(path: str) -> np.ndarray:
    """(H, W) uint8: parts of PASCAL-Part's people, as six; void altogether without people (Chen et al. 2014)."""
    numbers = {part: number for number, names in PARTS.items() for part in names}
    target = None
    for thing in variable(path, "anno")["objects"][0, 0].ravel():
        mask = np.asarray(thing["mask"])
        if target is None:
            target = np.full(mask.shape, IGNORE_LABEL, np.uint8)
        if int(np.ravel(thing["class_ind"])[0]) != PERSON or not np.size(thing["parts"]):
            continue
        target[target == IGNORE_LABEL] = 0
        for part in np.ravel(thing["parts"]):
            name = str(np.ravel(part["part_name"])[0])
            if name not in numbers:
                raise ValueError(f"{path} has a part {name!r} of a person; known are {', '.join(numbers)}")
            target[np.asarray(part["mask"]).astype(bool)] = numbers[name]
    if target is None:
        raise ValueError(f"{path} has no object")
    return target
