"""Pascal-Context (Mottaghi et al., 2014): 4,998 / 5,105 images of VOC 2010 with 59 classes, or 60 with the background.

Layouts, under $DETECTRON2_DATASETS (default ./datasets); HRNet keeps VOCdevkit/ in pascal_ctx/:

    VOCdevkit/VOC2010/JPEGImages/NAME.jpg
    VOCdevkit/VOC2010/SegmentationClassContext/NAME.png                   0 = background, 1..59
    VOCdevkit/VOC2010/ImageSets/SegmentationContext/{train,val}.txt

The labels come as one json of run lengths; `scaleeq data prepare pascal-context` makes the pictures and
lists of it, as does mmsegmentation's script. Both data sets read the same pictures: of 60 classes label 0 is the
background; of 59 it is void (255), and 1..59 are read as 0..58. Papers report either: say which.

Ids are those of the benchmark's 459 categories; names as in mmsegmentation. Colours are VOC's, as in PyTorch-Encoding
(mmsegmentation has ADE20K's, two of them equal).
"""

from __future__ import annotations

import functools

from scaleeq.choices import one_of

from .catalog import IGNORE_LABEL, Record, register_dataset
from .listing import Layout, load_layout
from .voc2012 import voc_color

# The id in the json and the name of each class, in the order of the labels 0..59.
IDS_AND_CLASSES = """
0 background | 2 aeroplane | 9 bag | 18 bed | 19 bedclothes | 22 bench | 23 bicycle | 25 bird | 31 boat | 33 book | 34
bottle | 44 building | 45 bus | 46 cabinet | 59 car | 65 cat | 68 ceiling | 72 chair | 80 cloth | 85 computer | 98 cow |
104 cup | 105 curtain | 113 dog | 115 door | 144 fence | 158 floor | 159 flower | 162 food | 187 grass | 189 ground |
207 horse | 220 keyboard | 232 light | 258 motorbike | 259 mountain | 260 mouse | 284 person | 295 plate | 296 platform
| 308 pottedplant | 324 road | 326 rock | 347 sheep | 349 shelves | 354 sidewalk | 355 sign | 360 sky | 366 snow | 368
sofa | 397 table | 415 track | 416 train | 420 tree | 424 truck | 427 tvmonitor | 440 wall | 445 water | 454 window |
458 wood
"""
_ROWS = [item.split() for item in IDS_AND_CLASSES.replace("\n", " ").split("|")]
CATEGORY_IDS = tuple(int(row[0]) for row in _ROWS)
CLASSES_60 = tuple(row[1] for row in _ROWS)
COLORS_60 = tuple(voc_color(label) for label in range(len(CLASSES_60)))
CLASSES = {59: CLASSES_60[1:], 60: CLASSES_60}
COLORS = {59: COLORS_60[1:], 60: COLORS_60}
# 255 does not occur. A file with it has its background taken away already: 255 becomes 254, and is refused.
LABEL_MAPS = {59: {0: IGNORE_LABEL, **{raw: raw - 1 for raw in range(1, 256)}}, 60: None}

SPLITS = ("train", "val")
BASES = {"mmsegmentation": "VOCdevkit/VOC2010", "HRNet": "pascal_ctx/VOCdevkit/VOC2010"}
LABELS, LISTS = "SegmentationClassContext", "ImageSets/SegmentationContext"


def load_pascal_context(split: str, num_classes: int, root: str | None = None) -> list[Record]:
    """Records of a split, in the order of its list.

    split: "train" or "val". num_classes: 59, or 60 with the background as class 0.
    root: the directory that holds VOCdevkit/, by default $DETECTRON2_DATASETS.
    FileNotFoundError: a missing directory, list, image or label. ValueError: another split or number of classes.
    """
    one_of(split, SPLITS, key="the split of Pascal-Context")
    if num_classes not in CLASSES:
        raise ValueError(f"Pascal-Context has 59 classes, or 60 with the background, not {num_classes}")
    layouts = [
        Layout(
            used_by=used_by,
            images=f"{base}/JPEGImages",
            labels=f"{base}/{LABELS}",
            names=f"{base}/{LISTS}/{split}.txt",
            label_map=LABEL_MAPS[num_classes],
        )
        for used_by, base in BASES.items()
    ]
    way_out = "Labels and lists are made of trainval_merged.json by: scaleeq data prepare pascal-context"
    return load_layout(f"Pascal-Context ({split})", layouts, root=root, way_out=way_out)


for _num_classes in CLASSES:
    for _split in SPLITS:
        register_dataset(
            f"pascal_context_{_num_classes}_sem_seg_{_split}",
            functools.partial(load_pascal_context, _split, _num_classes),
            classes=CLASSES[_num_classes],
            colors=COLORS[_num_classes],
        )
