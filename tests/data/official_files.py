"""Small data sets in the official formats, written for tests, with the labels that they must have."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import scipy.io
import scipy.sparse
from PIL import Image
from pycocotools import mask as coco_mask


def write_picture(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)


def write_image(path: Path, height: int, width: int) -> None:
    write_picture(path, np.full((height, width, 3), 90, np.uint8))


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_sbd(path: Path, labels: np.ndarray) -> None:
    """A file of SBD's cls/: a struct of boundaries (sparse, in cells), labels and the categories that are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    boundaries = np.empty((20, 1), object)
    for row in range(20):
        boundaries[row, 0] = scipy.sparse.csc_matrix(labels == row + 1)
    content = {"Boundaries": boundaries, "Segmentation": labels, "CategoriesPresent": np.unique(labels)[1:]}
    scipy.io.savemat(path, {"GTcls": content}, do_compression=True)


def write_coco_stuff_v11(path: Path, raw: np.ndarray) -> None:
    """MATLAB 5: the raw labels S, and the other variables that the archive has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.array([["person"], ["bicycle"]], object)
    scipy.io.savemat(path, {"S": raw, "names": names, "regionMapStuff": np.ones(raw.shape)}, do_compression=True)


def write_coco_stuff_v10(path: Path, raw: np.ndarray) -> None:
    """MATLAB 7.3: HDF5 behind a block of 512 bytes, in which arrays lie column by column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("S", data=raw.T)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Dec 12 2016 HDF5 schema 1.00 .".ljust(124))


def write_voc(root: Path) -> dict[str, np.ndarray]:
    """Two images of VOC's train, one of them in SBD too, two of SBD alone, and one of VOC's val that SBD has."""
    rng = np.random.default_rng(0)
    base, sbd = root / "VOCdevkit" / "VOC2012", root / "VOCdevkit" / "VOCaug" / "dataset"
    expected = {}
    for name in ("2007_a", "2007_b"):
        labels = rng.choice(np.array([0, 7, 20, 255], np.uint8), (5, 7))
        picture = Image.fromarray(labels)
        picture.putpalette([value for label in range(256) for value in (255 - label, label, 9)])
        (base / "SegmentationClass").mkdir(parents=True, exist_ok=True)
        picture.save(base / "SegmentationClass" / f"{name}.png")
        expected[name] = labels
    for name in ("2007_b", "2008_c", "2011_d", "2007_val"):
        labels = rng.integers(0, 21, (5, 7), np.uint8)
        write_sbd(sbd / "cls" / f"{name}.mat", labels)
        if name.startswith(("2008", "2011")):
            expected[name] = labels
    for name in ("2007_a", "2007_b", "2008_c", "2007_val"):
        write_image(base / "JPEGImages" / f"{name}.jpg", 5, 7)
    write_image(sbd / "img" / "2011_d.jpg", 5, 7)
    write_lines(base / "ImageSets" / "Segmentation" / "train.txt", ["2007_a", "2007_b"])
    write_lines(base / "ImageSets" / "Segmentation" / "val.txt", ["2007_val"])
    write_lines(sbd / "train.txt", ["2007_b", "2011_d"])
    write_lines(sbd / "val.txt", ["2008_c", "2007_val"])
    return expected


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths: column by column, beginning with the zeros."""
    pixels = mask.T.ravel()
    ends = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff([0, *ends, len(pixels)]).tolist()
    return {"counts": [0, *counts] if pixels[0] else counts, "size": list(mask.shape)}


def compressed(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return encoded | {"counts": encoded["counts"].decode()}


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((6, 9), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def write_context(root: Path, **changes: object) -> dict[str, np.ndarray]:
    """Two images: masks in all three codings, out of order, overlapping, one of a crowd; an image without masks."""
    base = root / "VOCdevkit" / "VOC2010"
    images = [
        {"image_id": 2008000001, "file_name": "2008_000001.jpg", "height": 6, "width": 9, "phase": "train"},
        {"image_id": 2008000002, "file_name": "2008_000002.jpg", "height": 6, "width": 9, "phase": "val"},
        {"image_id": 2008000003, "file_name": "2008_000003.jpg", "height": 6, "width": 9, "phase": "test"},
    ]
    sky, person = rectangle(0, 0, 4, 9), rectangle(1, 2, 6, 5)
    masks = [  # image, category of the json, segmentation, crowd
        (2008000001, 360, run_lengths(sky), 0),
        (2008000002, 458, compressed(rectangle(2, 2, 5, 8)), 0),
        (2008000001, 284, compressed(person), 1),
        (2008000001, 2, [[6, 2, 8, 2, 8, 5, 6, 5], [0, 5, 2, 5, 2, 6, 0, 6]], 0),
        (2008000002, 2, run_lengths(rectangle(0, 0, 3, 3)), 0),
        (2008000003, 2, run_lengths(sky), 0),
    ]
    annotations = [
        {"id": index + 1, "image_id": image, "category_id": category, "segmentation": mask, "iscrowd": crowd}
        for index, (image, category, mask, crowd) in enumerate(masks)
    ]
    content = {"info": {}, "images": images, "annos_segmentation": annotations, "annos_boundary": []}
    base.mkdir(parents=True, exist_ok=True)
    (base / "trainval_merged.json").write_text(json.dumps(content | changes))
    for image in images:
        write_image(base / "JPEGImages" / image["file_name"], 6, 9)
    first = np.zeros((6, 9), np.uint8)
    first[0:4] = 47  # sky
    first[1:6, 2:5] = 37  # person, over the sky
    first[2:5, 6:8] = first[5:6, 0:2] = 1  # aeroplane, over all
    second = np.zeros((6, 9), np.uint8)
    second[2:5, 2:8] = 59  # wood
    second[0:3, 0:3] = 1
    return {"2008_000001": first, "2008_000002": second}


def write_stuff(base: Path, version: str) -> dict[str, np.ndarray]:
    """An image of each split that together hold all classes, far from square: it matters which side is which."""
    write = write_coco_stuff_v10 if version == "v10" else write_coco_stuff_v11
    unused = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    dense = [raw for raw in range(1, 183) if raw not in unused] if version == "v11" else list(range(2, 173))
    unlabelled = 0 if version == "v11" else 1
    expected = {}
    for split, classes in (("train", range(0, 85)), ("test", range(85, 171))):
        name = f"COCO_train2014_{split}"
        labels = np.full((172, 2), 255, np.uint8)
        raw = np.full((172, 2), unlabelled, np.uint8 if split == "train" else np.uint16)
        for label in classes:
            labels[label, 1], raw[label, 1] = label, dense[label]
        write(base / "annotations" / f"{name}.mat", raw)
        write_image(base / "images" / f"{name}.jpg", 172, 2)
        write_lines(base / "imageLists" / f"{split}.txt", [name])
        expected[split] = labels
    return expected
