"""VOC 2012's "trainaug": VOC's own labels, and those of SBD (Hariharan et al., 2011) for the images that have none.

Sources: VOCdevkit/VOC2012 of the official archive, and SBD's dataset/{cls/NAME.mat,img/NAME.jpg,train.txt,val.txt}.
Results, in VOCdevkit/VOC2012: SegmentationClassAug/NAME.png for (VOC's train + SBD's train and val) - VOC's val, 10,582
images, and ImageSets/Segmentation/{trainaug,aug}.txt; aug.txt names the 9,118 whose labels are SBD's.

As in mmsegmentation, an image of VOC's train keeps VOC's labels, with their border of 255: not all of them are in SBD,
whose labels have no border. SBD's images are VOC's of 2011; where VOC2012/JPEGImages lacks one, it is copied there.
"""

from __future__ import annotations

import functools
import os
import shutil

import numpy as np
from scipy import io as matlab

from scaleeq.files import replacing

from ..picture_file import read_values, require_file
from ..sets.listing import files_by_name, read_names
from ..sets.voc2012 import CLASSES
from .conversion import (
    Conversion,
    convert,
    find_source,
    select_present,
    write_list,
)

NUM_IMAGES = 10_582
WHAT = "VOC 2012 (trainaug)"
SBD_FOLDERS = (
    "VOCdevkit/VOCaug/dataset",
    "VOCdevkit/benchmark_RELEASE/dataset",
    "benchmark_RELEASE/dataset",
    "VOCaug/dataset",
)
GET_VOC = "VOCtrainval_11-May-2012.tar: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
GET_SBD = (
    "SBD is benchmark.tgz: "
    "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
)


def prepare(root: str, *, workers: int = 0, allow_incomplete: bool = False) -> list[str]:
    """Convert; see prepare_dataset."""
    # Find both sources.
    devkit = find_source(root, ("VOCdevkit/VOC2012",), what=WHAT, get_it=GET_VOC)
    sbd = find_source(root, [f"{folder}/cls" for folder in SBD_FOLDERS], what=WHAT, get_it=GET_SBD)
    sbd = os.path.dirname(sbd)
    lists = os.path.join(devkit, "ImageSets", "Segmentation")
    # Names of both lists.
    own, val = (set(read_names(os.path.join(lists, f"{split}.txt"), WHAT)) for split in ("train", "val"))
    extra = {name for split in ("train", "val") for name in read_names(os.path.join(sbd, f"{split}.txt"), WHAT)}
    extra -= own | val

    # Files of each name.
    labels = {name: os.path.join(devkit, "SegmentationClass", f"{name}.png") for name in own}
    labels |= {name: os.path.join(sbd, "cls", f"{name}.mat") for name in extra}
    with_labels = own & set(files_by_name(os.path.join(devkit, "SegmentationClass"), (".png",)))
    with_labels |= extra & set(files_by_name(os.path.join(sbd, "cls"), (".mat",)))
    with_images = _complete_images(devkit, sbd, with_labels)
    names = select_present(
        own | extra, present=with_images, official=NUM_IMAGES, what=WHAT, allow_incomplete=allow_incomplete
    )

    # Convert, lists last.
    conversions = [
        Conversion(
            target=os.path.join(devkit, "SegmentationClassAug", f"{name}.png"),
            image=os.path.join(devkit, "JPEGImages", f"{name}.jpg"),
            source=labels[name],
            read=functools.partial(read_voc if name in own else read_sbd, labels[name]),
        )
        for name in names
    ]
    convert(conversions, WHAT, workers)
    write_list(os.path.join(lists, "aug.txt"), set(names) & extra)
    write_list(os.path.join(lists, "trainaug.txt"), names)
    return ["voc2012_sem_seg_trainaug"]


def read_sbd(path: str) -> np.ndarray:
    """Labels: (H, W) uint8 of one of SBD's .mat files, 0..20. ValueError: it is none, or cannot be read."""
    require_file(path)
    try:
        content = matlab.loadmat(path, variable_names=["GTcls"])
        labels = content["GTcls"]["Segmentation"].item()
    except Exception as error:  # a damaged file makes scipy and zlib raise nearly anything
        raise ValueError(f"{path} cannot be read as SBD's labels (GTcls.Segmentation): {error}. {GET_SBD}") from error
    if labels.ndim != 2 or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(
            f"{path} has labels of shape {labels.shape} from {labels.min()} to {labels.max()}; expected two dimensions "
            f"and 0..{len(CLASSES) - 1}. {GET_SBD}"
        )
    return labels.astype(np.uint8)


def read_voc(path: str) -> np.ndarray:
    """Labels: (H, W) uint8, the indexes of one of VOC's palette pictures. ValueError: it is a picture of colours."""
    labels, header = read_values(path, what="labels")
    if header.mode not in ("L", "P"):
        raise ValueError(f"{path} is a picture of mode {header.mode}; VOC's labels are palette pictures. {GET_VOC}")
    return labels


def _complete_images(devkit: str, sbd: str, names: set[str]) -> set[str]:
    """Copy the images of the names that only SBD has to VOC's; returns the names whose image is there then."""
    there = set(files_by_name(os.path.join(devkit, "JPEGImages"), (".jpg",)))
    folder = os.path.join(sbd, "img")
    only_sbd = (names - there) & (set(files_by_name(folder, (".jpg",))) if os.path.isdir(folder) else set())
    for name in sorted(only_sbd):
        with replacing(os.path.join(devkit, "JPEGImages", f"{name}.jpg")) as part:
            shutil.copyfile(os.path.join(folder, f"{name}.jpg"), part)
    return names & (there | only_sbd)
