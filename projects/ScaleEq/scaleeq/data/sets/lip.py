"""LIP, Look Into Person (Gong et al., 2017): 30,462 / 10,000 / 10,000 images of people, 20 classes with the background.

Layouts, under $DETECTRON2_DATASETS (default ./datasets), in LIP/ or lip/:

    TrainVal_images/{train,val}_images/NAME.jpg                                     the official archives, HRNet
    TrainVal_parsing_annotations/{train,val}_segmentations/NAME.png                 0..19
    Testing_images/testing_images/NAME.jpg                                          the official archive for testing
    {train,val}_images/NAME.jpg, {train,val}_segmentations/NAME.png                 mmsegmentation

Archives that were unpacked into a folder of their own name are found too. A horizontal flip makes a left arm a right
one: FLIP_PAIRS say which labels it exchanges, in training and in testing. So train_segmentations_reversed, the same
labels flipped, is not needed. Names as in mmsegmentation, colours of the authors' JPPNet.
"""

from __future__ import annotations

import functools

from scaleeq.choices import one_of

from .catalog import Record, read_table, register_dataset
from .listing import Layout, load_layout

CLASSES_AND_COLORS = """
Background 0 0 0 | Hat 128 0 0 | Hair 255 0 0 | Glove 0 85 0 | Sunglasses 170 0 51 | UpperClothes 255 85 0 | Dress 0 0
85 | Coat 0 119 221 | Socks 85 85 0 | Pants 0 85 85 | Jumpsuits 85 51 0 | Scarf 52 86 128 | Skirt 0 128 0 | Face 0 0 255
| Left-arm 51 170 221 | Right-arm 0 255 255 | Left-leg 85 255 170 | Right-leg 170 255 85 | Left-shoe 255 255 0 |
Right-shoe 255 170 0
"""
CLASSES, COLORS = read_table(CLASSES_AND_COLORS)
# Left and right arm, leg and shoe.
FLIP_PAIRS = ((14, 15), (16, 17), (18, 19))

SPLITS = ("train", "val", "test")
FOLDERS = ("LIP", "lip")
TEST_FOLDERS = ("Testing_images/testing_images", "Testing_images", "testing_images", "test_images")


def layouts(split: str) -> list[Layout]:
    """Where a split may lie."""
    if split == "test":
        return [
            Layout(used_by="the official archive for testing", images=f"{base}/{folder}")
            for base in FOLDERS
            for folder in TEST_FOLDERS
        ]
    images, labels = "TrainVal_images", "TrainVal_parsing_annotations"
    places = {
        "the official archives": (images, labels),
        "the official archives, each in its folder": (f"{images}/{images}", f"{labels}/{labels}"),
        "the official archives, the labels in their folder": (images, f"{labels}/{labels}"),
        "mmsegmentation": ("", ""),
    }
    return [
        Layout(
            used_by=used_by,
            images="/".join(filter(None, (base, image_folder, f"{split}_images"))),
            labels="/".join(filter(None, (base, label_folder, f"{split}_segmentations"))),
        )
        for base in FOLDERS
        for used_by, (image_folder, label_folder) in places.items()
    ]


def load_lip(split: str, root: str | None = None) -> list[Record]:
    """Records of a split, sorted by name; those of test have no labels.

    split: "train", "val" or "test". root: the directory that holds LIP/, by default $DETECTRON2_DATASETS.
    FileNotFoundError: a missing directory, image or label. ValueError: another split.
    """
    one_of(split, SPLITS, key="the split of LIP")
    return load_layout(f"LIP ({split})", layouts(split), root=root)


for _split in SPLITS:
    register_dataset(
        f"lip_sem_seg_{_split}",
        functools.partial(load_lip, _split),
        classes=CLASSES,
        colors=COLORS,
        family="lip",
        flip_pairs=FLIP_PAIRS,
    )
