"""COCO-Stuff-10K's labels as pictures: of .mat files, v1.0 (MATLAB 7.3, an HDF5 file) or v1.1 (MATLAB 5).

Sources, in coco/coco_stuff_10k or coco_stuff10k: images/NAME.jpg, annotations/NAME.mat, imageLists/{train,test}.txt.
Results there: annotations_v10/NAME.png or annotations_v11/NAME.png with 0..170, and 255 where nothing is labelled; the
version is told from the files. Images and lists stay where they are (MaskFormer and mmsegmentation copy the images).

The label map is the variable S. v1.0: 1 = unlabelled, 2..172 = the classes in order; an HDF5 file of MATLAB's holds the
transpose. v1.1: 0 = unlabelled, 1..182, of which 11 are not used. Source: the README of the authors' cocostuff10k.
"""

from __future__ import annotations

import functools
import os

import numpy as np
from scipy import io as matlab

from scaleeq.extras import require

from ..picture_file import require_file
from ..sets.catalog import IGNORE_LABEL
from ..sets.coco_stuff import BASES, CLASSES, LABELS, SPLITS
from ..sets.listing import files_by_name, read_names
from .conversion import (
    Conversion,
    convert,
    find_source,
    find_sources,
    select_present,
)

NUM_IMAGES = {"train": 9_000, "test": 1_000}
WHAT = "COCO-Stuff-10K"
GET_IT = "cocostuff-10k-v1.1.zip (or v1.0): https://github.com/nightrome/cocostuff10k"
# How a file begins.
HEADERS = {b"MATLAB 7.3 MAT-file": "v10", b"MATLAB 5.0 MAT-file": "v11"}
UNUSED_V11 = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
UNLABELLED = {"v10": 1, "v11": 0}
# The raw value of each class, in the order of the labels 0..170.
RAW_VALUES = {
    "v10": tuple(range(2, 173)),
    "v11": tuple(raw for raw in range(1, 183) if raw not in UNUSED_V11),
}


def prepare(root: str, *, workers: int = 0, allow_incomplete: bool = False) -> list[str]:
    """Convert every copy that is there, of either version; see prepare_dataset."""
    folders = find_sources(root, [f"{base}/annotations" for base in BASES], what=WHAT, get_it=GET_IT)
    with_sources = [folder for folder in folders if files_by_name(folder, (".mat",))]
    if not with_sources:
        raise FileNotFoundError(f"{WHAT}: there is no .mat file in {os.path.abspath(folders[0])}. {GET_IT}")
    names: list[str] = []
    for folder in with_sources:
        version = _convert_copy(os.path.dirname(folder), workers, allow_incomplete)
        names += [f"coco_stuff_10k_{version}_sem_seg_{split}" for split in SPLITS]
    return names


def _convert_copy(base: str, workers: int, allow_incomplete: bool) -> str:
    """Convert the copy that lies in base; returns its version."""
    folder, images = os.path.join(base, "annotations"), os.path.join(base, "images")
    find_source(base, ("images",), what=WHAT, get_it=GET_IT)
    sources = files_by_name(folder, (".mat",))
    there = set(sources) & set(files_by_name(images, (".jpg",)))
    names = [
        name
        for split in SPLITS
        for name in select_present(
            read_names(os.path.join(base, "imageLists", f"{split}.txt"), WHAT),
            present=there,
            official=NUM_IMAGES[split],
            what=f"{WHAT} ({split})",
            allow_incomplete=allow_incomplete,
        )
    ]
    version = version_of(os.path.join(folder, sources[names[0]]))
    if version == "v10":
        require("h5py", why=f"{WHAT} 1.0 is in MATLAB's 7.3 files, but ")
    conversions = [
        Conversion(
            target=os.path.join(base, LABELS[version], f"{name}.png"),
            image=os.path.join(images, f"{name}.jpg"),
            source=os.path.join(folder, sources[name]),
            read=functools.partial(read_labels, os.path.join(folder, sources[name]), version),
        )
        for name in names
    ]
    convert(conversions, f"{WHAT} {version}", workers)
    return version


def version_of(path: str) -> str:
    """ "v10" or "v11", from the first bytes of a .mat file. ValueError: it is neither; OSError: no file."""
    require_file(path)
    with open(path, "rb") as file:
        start = file.read(19)
    if start not in HEADERS:
        raise ValueError(f"{path} is neither a MATLAB 5 nor a MATLAB 7.3 file: it begins with {start!r}. {GET_IT}")
    return HEADERS[start]


def read_labels(path: str, version: str) -> np.ndarray:
    """Labels: (H, W) uint8 of a .mat file, 0..170 and 255.

    ValueError: a file of the other version, one that cannot be read, or with values that mean nothing.
    """
    if (found := version_of(path)) != version:
        raise ValueError(f"{path} is of {found}, but the others are of {version}: unpack one version alone. {GET_IT}")
    try:
        raw = _read_hdf5(path) if version == "v10" else _read_matlab5(path)
    except Exception as error:  # damaged files make the libraries raise nearly anything
        raise ValueError(f"{path} cannot be read as COCO-Stuff's labels (S): {error}. {GET_IT}") from error
    table = np.full(256, -1, np.int16)
    table[UNLABELLED[version]] = IGNORE_LABEL
    table[list(RAW_VALUES[version])] = np.arange(len(CLASSES))
    values = np.unique(raw)
    if undeclared := [value for value in values.tolist() if not 0 <= value <= 255 or table[int(value)] < 0]:
        raise ValueError(f"{path} has the values {undeclared}, which COCO-Stuff-10K {version} does not have. {GET_IT}")
    return table[raw.astype(np.uint8)].astype(np.uint8)


def _read_matlab5(path: str) -> np.ndarray:
    return matlab.loadmat(path, variable_names=["S"])["S"]


def _read_hdf5(path: str) -> np.ndarray:
    with require("h5py").File(path, "r") as file:
        return np.asarray(file["S"]).T  # MATLAB stores columns first
