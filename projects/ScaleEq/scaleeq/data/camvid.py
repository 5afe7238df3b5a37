"""CamVid (Brostow et al., 2009) as SegNet distributes it: 367 / 101 / 233 images of 360 x 480, 11 classes and void.

Layout, under $DETECTRON2_DATASETS (default ./datasets):

    CamVid/{train,val,test}/NAME.{png,jpg}        images
    CamVid/{train,val,test}annot/NAME.png         labels, one channel: 0..10, 11 = unlabelled (read as void, 255)

The lists train.txt, val.txt, test.txt are not needed: they name every file of their directory. Class names, their order
and their colours are those of the script in the SegNet tutorial.
"""

from __future__ import annotations

import functools
import os

from PIL import Image

from scaleeq.data.catalog import IGNORE_LABEL, Record, datasets_root, register_dataset

CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
COLORS = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
SPLITS = ("train", "val", "test")
LABEL_MAP = {11: IGNORE_LABEL}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def load_camvid(split: str, root: str | None = None) -> list[Record]:
    """Records of a split, sorted by name.

    split: "train", "val" or "test". root: the directory that holds CamVid/, by default $DETECTRON2_DATASETS.
    Raises FileNotFoundError for a missing directory or label, ValueError for two images of one name.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of CamVid, valid are {SPLITS}")
    base = os.path.join(datasets_root() if root is None else root, "CamVid")
    images, labels = os.path.join(base, split), os.path.join(base, split + "annot")
    for directory in (images, labels):
        if not os.path.isdir(directory):
            raise FileNotFoundError(
                f"CamVid ({split}) needs the directory {os.path.abspath(directory)}; set the environment variable "
                "DETECTRON2_DATASETS to the directory that holds CamVid/ in SegNet's layout (CamVid/train, "
                "CamVid/trainannot, ...)"
            )
    records: list[Record] = []
    for stem, suffix in sorted(os.path.splitext(file) for file in os.listdir(images)):
        if suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if records and records[-1]["image_id"] == stem:
            raise ValueError(f"two images are named {stem} in {images}: keep one of them")
        image_file, label_file = os.path.join(images, stem + suffix), os.path.join(labels, stem + ".png")
        if not os.path.isfile(label_file):
            raise FileNotFoundError(
                f"the image {image_file} has no label file {label_file}; "
                "is DETECTRON2_DATASETS the directory of a complete copy?"
            )
        with Image.open(image_file) as image:  # reads the header only
            width, height = image.size
        records.append(
            {
                "file_name": image_file,
                "sem_seg_file_name": label_file,
                "image_id": stem,
                "height": height,
                "width": width,
                "label_map": LABEL_MAP,
            }
        )
    if not records:
        raise FileNotFoundError(f"no image ({', '.join(IMAGE_SUFFIXES)}) in {os.path.abspath(images)}")
    return records


for _split in SPLITS:
    register_dataset(f"camvid_sem_seg_{_split}", functools.partial(load_camvid, _split), classes=CLASSES, colors=COLORS)
