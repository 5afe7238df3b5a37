"""Folder data sets for tests: a good one, and functions that make it wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from scaleeq.data.sets import voc2012
from tests.data.coded_pictures import write_png

CLASSES = ("sky", "road", "car", "tree")
RNG = np.random.default_rng(0)
DISTINCT = (
    np.array([[0, 1, 2, 3], [3, 2, 1, 255]], np.uint8).repeat(8, 0).repeat(8, 1)
)  # (16, 32), all classes and void


def save(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def photo(path: Path, shape: tuple[int, ...] = DISTINCT.shape, **options) -> None:
    save(path, RNG.integers(0, 256, (*shape[:2], 3), np.uint8), **options)


def folder(root: Path, labels: dict[str, np.ndarray], split: str = "", classes: str | None = "\n".join(CLASSES)) -> str:
    """A folder data set "own" with these label files, and an image for each; returns its name."""
    for name, array in labels.items():
        photo(root / "own" / "images" / split / f"{name}.png", array.shape)
        save(root / "own" / "labels" / split / f"{name}.png", array)
    if classes is not None:
        (root / "own").mkdir(exist_ok=True)
        (root / "own" / "classes.txt").write_text(classes)
    return f"folder:{root / 'own' / split}"  # with the root: a name is registered once in a process


def good(root: Path, split: str = "") -> str:
    return folder(root, {"a": DISTINCT, "b": DISTINCT[::-1], "c": DISTINCT[:, ::-1]}, split)


def label_b(root: Path) -> Path:
    return root / "own" / "labels" / "b.png"


def changed(change: Callable[[Path], object]) -> Callable[[Path], str]:
    """A good folder after `change` of its root."""

    def write(root: Path) -> str:
        name = good(root)
        change(root)
        return name

    return write


def with_labels(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], str]:
    """A folder whose labels are the good ones after `make`."""
    return lambda root: folder(root, {name: make(DISTINCT) for name in ("a", "b", "c")})


def in_color(labels: np.ndarray) -> np.ndarray:
    return np.array([voc2012.voc_color(label) for label in range(256)], np.uint8)[labels]


def palette_as_rgb(root: Path) -> str:
    """VOC's own labels, opened and saved again as RGB."""
    base = root / "VOCdevkit" / "VOC2012"
    photo(base / "JPEGImages" / "2007_1.jpg")
    save(base / "SegmentationClass" / "2007_1.png", in_color(DISTINCT))
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    (base / "ImageSets" / "Segmentation" / "val.txt").write_text("2007_1\n")
    return "voc2012_sem_seg_val"


def trainaug_without_sbd(root: Path) -> str:
    palette_as_rgb(root)
    lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    for name in ("train", "trainaug"):
        (lists / f"{name}.txt").write_text("2007_2\n")
    return "voc2012_sem_seg_trainaug"


def ade_minus_one_twice(root: Path) -> str:
    base = root / "ADEChallengeData2016"
    photo(base / "images" / "validation" / "ADE_val_1.jpg")
    save(base / "annotations" / "validation" / "ADE_val_1.png", DISTINCT)  # void is 255 already
    return "ade20k_150_val"


def polygons_alone(root: Path) -> str:
    base = root / "cityscapes"
    photo(base / "leftImg8bit" / "val" / "ulm" / "ulm_1_leftImg8bit.png")
    (base / "gtFine" / "val" / "ulm").mkdir(parents=True)
    (base / "gtFine" / "val" / "ulm" / "ulm_1_gtFine_polygons.json").write_text("{}")
    return "cityscapes_sem_seg_val"


def stuff_as_mat(root: Path) -> str:
    base = root / "coco" / "coco_stuff_10k"
    photo(base / "images" / "COCO_1.jpg")
    (base / "annotations").mkdir()
    (base / "annotations" / "COCO_1.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    (base / "imageLists").mkdir()
    (base / "imageLists" / "test.txt").write_text("COCO_1\n")
    return "coco_stuff_10k_v11_sem_seg_test"


def same_image_in_two_splits(root: Path) -> str:
    good(root, "train")
    name = good(root, "val")
    images = root / "own" / "images"
    (images / "val" / "c.png").write_bytes((images / "train" / "a.png").read_bytes())
    return name


def missing_split(root: Path) -> str:
    good(root, "train")
    return f"folder:{root}/own/val"


def cut_off(root: Path) -> None:
    noise = RNG.integers(0, 4, DISTINCT.shape, np.uint8)
    save(label_b(root), noise)
    label_b(root).write_bytes(label_b(root).read_bytes()[:60])


def turned_by_exif(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(root / "own" / "images" / "b.png", exif=exif)


def interpolated(root: Path) -> str:
    """Large enough for borders to be told from noise: blobs of 10 px, enlarged as images are."""
    blobs = RNG.integers(0, 2, (12, 12), np.uint8) * 3
    labels = cv2.resize(np.kron(blobs, np.ones((10, 10), np.uint8)), (300, 300), interpolation=cv2.INTER_LINEAR)
    return folder(root, {"a": labels})


def image_b(root: Path) -> Path:
    return root / "own" / "images" / "b.png"


def as_tiff(path: Callable[[Path], Path], make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], str]:
    """A good folder, one file of which holds `make` of the labels as TIFF; a reader goes by the content."""
    return changed(lambda root: Image.fromarray(make(DISTINCT)).save(path(root), format="TIFF"))


def half_way(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == 3, np.float32(2.99), labels.astype(np.float32))


def unknown(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == 255, np.float32(np.nan), labels.astype(np.float32))


def animated(path: Callable[[Path], Path]) -> Callable[[Path], str]:
    first, second = (Image.fromarray(DISTINCT + shift) for shift in (0, 1))
    return changed(lambda root: first.save(path(root), format="PNG", save_all=True, append_images=[second]))


def pipe(path: Callable[[Path], Path]) -> Callable[[Path], str]:
    def replace(root: Path) -> None:
        path(root).unlink()
        os.mkfifo(path(root))

    return changed(replace)


def coded(bits: int) -> Callable[[Path], str]:
    """A good folder with labels of a few bits, 255 left out."""
    return changed(lambda root: write_png(label_b(root), np.minimum(DISTINCT, 3) % (1 << bits), bits))


def listed(text: str, encoding: str = "utf-8") -> Callable[[Path], str]:
    """A good folder with this list of classes."""
    return changed(lambda root: (root / "own" / "classes.txt").write_bytes(text.encode(encoding)))


def voc_list_in_latin_1(root: Path) -> str:
    name = palette_as_rgb(root)
    path = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
    path.write_bytes("2007_1\nStraße\n".encode("latin-1"))
    return name
