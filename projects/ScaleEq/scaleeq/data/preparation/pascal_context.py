"""Pascal-Context's 59 classes and background as label pictures, of trainval_merged.json, without its `detail` package.

The json, beside "images" (image_id, file_name, height, width, phase) and "categories", holds "annos_segmentation": run
lengths in COCO's coding, each with the id of an image and of a category, often several for a pixel. As the package's
getMask does, the masks of an image are painted in the order of the file, crowds included, later ones over earlier ones;
what none covers is background (0). The 60 ids then become 0..59 in the order of their value.

Results, in VOCdevkit/VOC2010: SegmentationClassContext/NAME.png, and ImageSets/SegmentationContext/{train,val}.txt with
4,998 and 5,105 names (the phase of an image). Sources: detail-api; the same facts in mmsegmentation's and HRNet's code.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from scaleeq.records import Json

from ..picture_file import require_file
from ..sets.listing import files_by_name
from ..sets.pascal_context import BASES, CATEGORY_IDS, LABELS, LISTS
from .coco_masks import decode
from .conversion import Conversion, convert, find_source, select_present, write_list

logger = logging.getLogger(__name__)

NUM_IMAGES = {"train": 4_998, "val": 5_105}
WHAT = "Pascal-Context"
MAX_SIDE = 1 << 15  # of an image, in pixels
JSON = "trainval_merged.json"
GET_IMAGES = "VOCtrainval_03-May-2010.tar: http://host.robots.ox.ac.uk/pascal/VOC/voc2010/"
GET_JSON = f"{JSON}: https://codalabuser.blob.core.windows.net/public/{JSON}"
Item = Json  # of one of the json's lists
LABEL_OF_CATEGORY = {category: label for label, category in enumerate(CATEGORY_IDS)}


def prepare(root: str, *, workers: int = 0, allow_incomplete: bool = False) -> list[str]:
    """Convert; see prepare_dataset."""
    devkit = find_source(root, tuple(BASES.values()), what=WHAT, get_it=GET_IMAGES)
    # In VOC2010/ (mmsegmentation, HRNet), or in one of the two directories around it.
    source = find_source(devkit, (JSON, f"../{JSON}", f"../../{JSON}"), what=WHAT, get_it=GET_JSON)
    logger.info("reading %s, which takes a while", source)
    images, annotations = read_json(source)
    there = set(files_by_name(os.path.join(devkit, "JPEGImages"), (".jpg",)))
    by_name = {os.path.splitext(image["file_name"])[0]: image for image in images}
    splits = {
        split: select_present(
            [name for name, image in by_name.items() if image["phase"] == split],
            present=there,
            official=number,
            what=f"{WHAT} ({split})",
            allow_incomplete=allow_incomplete,
        )
        for split, number in NUM_IMAGES.items()
    }
    conversions = [
        Conversion(
            target=os.path.join(devkit, LABELS, f"{name}.png"),
            image=os.path.join(devkit, "JPEGImages", f"{name}.jpg"),
            source=f"{source} (image {by_name[name]['image_id']})",
            read=functools.partial(paint, by_name[name], annotations[by_name[name]["image_id"]], source),
        )
        for names in splits.values()
        for name in names
    ]
    convert(conversions, WHAT, workers)
    for split, names in splits.items():
        write_list(os.path.join(devkit, *LISTS.split("/"), f"{split}.txt"), names)
    return [f"pascal_context_{number}_sem_seg_{split}" for number in (59, 60) for split in NUM_IMAGES]


def read_json(path: str) -> tuple[list[Item], Mapping[int, list[Item]]]:
    """The images, and the masks of each by its id, in the order of the file. ValueError: it is not the json."""
    require_file(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path} is not a whole json file: {error}. {GET_JSON}") from error
    keys = {
        "images": {"image_id", "file_name", "height", "width", "phase"},
        "annos_segmentation": {"image_id", "category_id", "segmentation"},
    }
    for section, wanted in keys.items():
        items = content.get(section) if isinstance(content, dict) else None
        if not items or not all(wanted <= item.keys() for item in items):
            raise ValueError(f"{path} has no {section!r} with {', '.join(sorted(wanted))}. {GET_JSON}")
    annotations: dict[int, list[Item]] = defaultdict(list)
    for annotation in content["annos_segmentation"]:
        annotations[annotation["image_id"]].append(annotation)
    return content["images"], annotations


def paint(image: Item, annotations: Sequence[Item], source: str) -> np.ndarray:
    """Labels: (H, W) uint8, 0..59: the masks in their order, later ones over earlier ones.

    image, annotations: items of the json. source: its path, for messages.
    ValueError: a category that is none of the 60, or a mask of another size than the image, or a damaged one.
    """
    height, width = image["height"], image["width"]
    if not all(type(side) is int and 0 < side <= MAX_SIDE for side in (height, width)):
        raise ValueError(f"{source} gives {image['file_name']} the size {height!r} x {width!r}. {GET_JSON}")
    labels = np.zeros((height, width), np.uint8)
    for annotation in annotations:
        category = annotation["category_id"]
        if category not in LABEL_OF_CATEGORY:
            raise ValueError(
                f"{source} has category {category} in {image['file_name']}, which is none of the 59 classes; is it the "
                f"json with all 459 categories? {GET_JSON}"
            )
        try:
            mask = decode(annotation["segmentation"], height, width)
        except ValueError as error:
            raise ValueError(f"{source} has {error}; it is of {image['file_name']}. {GET_JSON}") from error
        labels[mask > 0] = LABEL_OF_CATEGORY[category]
    return labels
