"""PASCAL VOC 2012 segmentation (Everingham et al.): 1,464 / 1,449 images, with SBD's labels 10,582; 1,456 to test on.

Layout of the official archives, under $DETECTRON2_DATASETS (default ./datasets); Detectron2 has VOC2012/ there itself:

    VOCdevkit/VOC2012/JPEGImages/NAME.jpg
    VOCdevkit/VOC2012/SegmentationClass/NAME.png            palette picture: its indexes are the labels, 255 = border
    VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val,test}.txt

and for "trainaug" (Hariharan et al., 2011, SBD) the first of these that is there, grey or palette pictures:

    VOCdevkit/VOC2012/SegmentationClassAug/NAME.png         as it circulates, and as mmsegmentation converts it
    VOCdevkit/VOCaug/dataset/cls/NAME.png                   converted beside SBD's .mat files

"trainaug" is (VOC's train + SBD's train and val) - VOC's val, sorted: from trainaug.txt, from train.txt and
mmsegmentation's aug.txt, or from SBD's own lists. The 1,464 images that have VOC's labels get these, as in
mmsegmentation, in every layout, so that the labels do not depend on what somebody put into SegmentationClassAug:
SBD's have no border (255), VOC's do. DeepLab's ground truth, all of SegmentationClassAug, is another one. Colours are
VOC's, computed.
"""

from __future__ import annotations

import functools
import os
from dataclasses import replace

from scaleeq.choices import one_of

from .catalog import Record, register_dataset
from .listing import Layout, find_layout, layout_records, load_layout, read_names

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SPLITS = ("train", "trainaug", "val", "test")
FOLDERS = {"the official archive": "VOCdevkit/VOC2012", "Detectron2": "VOC2012"}
# SBD's archive as seen from VOC2012/, for its lists: mmsegmentation's name, and its own beside or above.
SBD_FOLDERS = ("VOCaug/dataset", "benchmark_RELEASE/dataset", "../benchmark_RELEASE/dataset")
WAY_OUT = "SBD's .mat files are converted by: scaleeq data prepare voc2012-trainaug"


def voc_color(label: int) -> tuple[int, int, int]:
    """VOC's colour of a label: its bits, lowest first, go in turn to red, green and blue, from the highest bit down."""
    color = [0, 0, 0]
    for bit in range(8):
        color[bit % 3] |= (label >> bit & 1) << (7 - bit // 3)
    return color[0], color[1], color[2]


COLORS = tuple(voc_color(label) for label in range(len(CLASSES)))


def load_voc2012(split: str, root: str | None = None) -> list[Record]:
    """Records of a split, in the order of its list; those of trainaug by name; those of test have no labels.

    split: "train", "trainaug", "val" or "test". root: the directory that holds VOCdevkit/, by default
    $DETECTRON2_DATASETS.
    FileNotFoundError: a missing directory, list, image or label. ValueError: another split, or trainaug.txt names
    images of val.
    """
    one_of(split, SPLITS, key="the split of VOC 2012")
    what = f"VOC 2012 ({split})"
    if split == "trainaug":
        return _load_trainaug(what, root)
    return load_layout(what, layouts(split), root=root)


def layouts(split: str) -> list[Layout]:
    """Where "train", "val" or "test" may lie."""
    return [
        Layout(
            used_by=used_by,
            images=f"{base}/JPEGImages",
            labels="" if split == "test" else f"{base}/SegmentationClass",
            names=f"{base}/ImageSets/Segmentation/{split}.txt",
        )
        for used_by, base in FOLDERS.items()
    ]


def sbd_layouts() -> list[Layout]:
    """Where the images of trainaug may lie with SBD's labels."""
    return [
        replace(layout, used_by=f"SBD's labels, {used_by}", labels=labels)
        for layout, base in zip(layouts("train"), FOLDERS.values(), strict=True)
        for used_by, labels in (
            ("converted", f"{base}/SegmentationClassAug"),
            ("converted in place", os.path.join(os.path.dirname(base), "VOCaug/dataset/cls")),
        )
    ]


def _load_trainaug(what: str, root: str | None) -> list[Record]:
    """VOC's labels where train.txt names the image, SBD's for the others."""
    official = find_layout(what, layouts("train"), root=root)
    augmented = find_layout(what, sbd_layouts(), root=root, way_out=WAY_OUT)
    names, own = _trainaug_names(official, what), set(read_names(official.names, what))
    records: list[Record] = []
    for layout, part in ((official, names & own), (augmented, names - own)):
        records += layout_records(what, layout, sorted(part)) if part else []
    return sorted(records, key=lambda record: record["image_id"])


def _trainaug_names(official: Layout, what: str) -> set[str]:
    """The images of trainaug, from the first lists that are there."""
    folder, devkit = os.path.dirname(official.names), os.path.dirname(os.path.dirname(official.images))
    val = set(read_names(os.path.join(folder, "val.txt"), what))
    train, augmented, ready = (os.path.join(folder, f"{part}.txt") for part in ("train", "aug", "trainaug"))
    choices: tuple[tuple[str, ...], ...] = ((ready,), (train, augmented))
    for lists in choices:
        if all(map(os.path.isfile, lists)):
            names = {name for path in lists for name in read_names(path, what)}
            if leaked := sorted(names & val):
                raise ValueError(
                    f"{what}: {lists[-1]} names {len(leaked)} images of val, the first is {leaked[0]}; take them out, "
                    "or remove the list: SBD's own lists are used then"
                )
            return names
    for sbd in SBD_FOLDERS:
        lists = tuple(os.path.join(devkit, sbd, f"{part}.txt") for part in ("train", "val"))
        if all(map(os.path.isfile, lists)):
            return {name for path in (train, *lists) for name in read_names(path, what)} - val
    raise FileNotFoundError(
        f"{what} needs the list {os.path.abspath(ready)}, one image name a line; or aug.txt beside it, "
        f"or SBD's train.txt and val.txt in {os.path.join(os.path.abspath(devkit), SBD_FOLDERS[0])}. {WAY_OUT}"
    )


for _split in SPLITS:
    register_dataset(
        f"voc2012_sem_seg_{_split}",
        functools.partial(load_voc2012, _split),
        classes=CLASSES,
        colors=COLORS,
        family="voc2012",
    )
