"""PASCAL VOC 2012 segmentation (Everingham et al.): 1,464 / 1,449 images, with SBD's labels 10,582 / 1,449; 21 classes.

Layout of the official archive, under $DETECTRON2_DATASETS (default ./datasets):

    VOCdevkit/VOC2012/JPEGImages/NAME.jpg
    VOCdevkit/VOC2012/SegmentationClass/NAME.png            palette picture: its indexes are the labels, 255 = border
    VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt

and for "trainaug" (Hariharan et al., 2011), in the form that circulates with DeepLab:

    VOCdevkit/VOC2012/SegmentationClassAug/NAME.png         grey or palette; SBD's labels have no border
    VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt

mmsegmentation trains on VOC's own labels (SegmentationClass) where an image has them, and on SBD's for the others;
here, as in DeepLab, all of trainaug comes from SegmentationClassAug. Colours are VOC's, computed.
"""

from __future__ import annotations

import functools
import os

from scaleeq.data.catalog import Record, datasets_root, register_dataset
from scaleeq.data.listing import paired_records, read_names, require_directory

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LABELS_OF_SPLIT = {"train": "SegmentationClass", "trainaug": "SegmentationClassAug", "val": "SegmentationClass"}


def voc_color(label: int) -> tuple[int, int, int]:
    """VOC's colour of a label: its bits, lowest first, go in turn to red, green and blue, from the highest bit down."""
    color = [0, 0, 0]
    for bit in range(8):
        color[bit % 3] |= (label >> bit & 1) << (7 - bit // 3)
    return color[0], color[1], color[2]


COLORS = tuple(voc_color(label) for label in range(len(CLASSES)))


def load_voc2012(split: str, root: str | None = None) -> list[Record]:
    """Records of a split, in the order of its list.

    split: "train", "trainaug" or "val". root: the directory that holds VOCdevkit/, by default $DETECTRON2_DATASETS.
    FileNotFoundError: a missing directory, list, image or label. ValueError: another split.
    """
    if split not in LABELS_OF_SPLIT:
        raise ValueError(f"unknown split {split!r} of VOC 2012, valid are {tuple(LABELS_OF_SPLIT)}")
    base = os.path.join(datasets_root() if root is None else root, "VOCdevkit", "VOC2012")
    images, labels = os.path.join(base, "JPEGImages"), os.path.join(base, LABELS_OF_SPLIT[split])
    what = f"VOC 2012 ({split})"
    for directory in (images, labels):
        require_directory(directory, what, f"VOCdevkit/VOC2012/ with {LABELS_OF_SPLIT[split]}/")
    names = read_names(os.path.join(base, "ImageSets", "Segmentation", f"{split}.txt"), what)
    return paired_records(names, images=(images, ".jpg"), labels=(labels, ".png"), what=what)


for _split in LABELS_OF_SPLIT:
    register_dataset(
        f"voc2012_sem_seg_{_split}", functools.partial(load_voc2012, _split), classes=CLASSES, colors=COLORS
    )
