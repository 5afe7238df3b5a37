"""Cityscapes (Cordts et al., 2016), 1024 x 2048 pixels, 19 classes: fine labels for 2,975 / 500 images, 1,525 to test
on; coarse ones for 2,975 / 19,998 / 500.

Layout of the official archives, under $DETECTRON2_DATASETS (default ./datasets):

    cityscapes/leftImg8bit/{train,val,test,train_extra}/CITY/NAME_leftImg8bit.png
    cityscapes/gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png                      0..33
    cityscapes/gtFine/{train,val}/CITY/NAME_gtFine_labelTrainIds.png                 0..18, 255: where labelIds are not
    cityscapes/gtFine/{train,val}/CITY/NAME_gtFine_instanceIds.png                   16 bits; not needed to train
    cityscapes/gtCoarse/{train,train_extra,val}/CITY/NAME_gtCoarse_labelIds.png

The archives' labelIds become the 19 training labels on reading, so that no labelTrainIds have to be made first. The
labels of test are not public; its records have none. Ids, names and colours: cityscapesScripts, helpers/labels.py.
"""

from __future__ import annotations

import functools

from scaleeq.choices import one_of

from .catalog import IGNORE_LABEL, Record, register_dataset
from .listing import Layout, load_layout

# labelId, name and colour of each class, in the order of the training labels 0..18.
CLASS_TABLE = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
CLASSES = tuple(name for _, name, _ in CLASS_TABLE)
COLORS = tuple(color for _, _, color in CLASS_TABLE)
NUM_LABEL_IDS = 34
LABEL_MAP = {
    **dict.fromkeys(range(NUM_LABEL_IDS), IGNORE_LABEL),
    **{label_id: label for label, (label_id, _, _) in enumerate(CLASS_TABLE)},
}

SPLITS = {"gtFine": ("train", "val", "test"), "gtCoarse": ("train", "train_extra", "val")}


def layouts(split: str, kind: str) -> list[Layout]:
    """Where a split may lie: with the archives' labels, or with those of cityscapesScripts alone."""
    images = f"cityscapes/leftImg8bit/{split}"
    suffixes = ("_leftImg8bit.png",)
    if split == "test":
        return [Layout(used_by="the official archive", images=images, image_suffixes=suffixes, nested=True)]
    sources = {"labelIds": ("the official archives", LABEL_MAP), "labelTrainIds": ("csCreateTrainIdLabelImgs", None)}
    return [
        Layout(
            used_by=used_by,
            images=images,
            labels=f"cityscapes/{kind}/{split}",
            image_suffixes=suffixes,
            label_suffix=f"_{kind}_{ids}.png",
            label_map=label_map,
            nested=True,
            instance_suffix=f"_{kind}_instanceIds.png",
        )
        for ids, (used_by, label_map) in sources.items()
    ]


def load_cityscapes(split: str, root: str | None = None, *, kind: str = "gtFine") -> list[Record]:
    """Records of a split, sorted by city and name.

    split: "train", "val" or "test"; of the coarse labels "train", "train_extra" or "val".
    root: the directory that holds cityscapes/, by default $DETECTRON2_DATASETS. kind: "gtFine" or "gtCoarse".
    FileNotFoundError: a missing directory or label, or no image. ValueError: another split or kind.
    """
    one_of(kind, SPLITS, key="the kind of Cityscapes' labels")
    one_of(split, SPLITS[kind], key=f"the split of Cityscapes with {kind}")
    return load_layout(f"Cityscapes ({kind}, {split})", layouts(split, kind), root=root)


for _kind, _prefix in (("gtFine", "cityscapes"), ("gtCoarse", "cityscapes_coarse")):
    for _split in SPLITS[_kind]:
        register_dataset(
            f"{_prefix}_sem_seg_{_split}",
            functools.partial(load_cityscapes, _split, kind=_kind),
            classes=CLASSES,
            colors=COLORS,
            family="cityscapes",
        )
