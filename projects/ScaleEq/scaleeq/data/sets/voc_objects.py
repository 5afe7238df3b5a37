"""PASCAL VOC 2007 and 2012 detection (Everingham et al.): boxes of 20 classes.

Layout of the official archives, under $DETECTRON2_DATASETS (default ./datasets); Detectron2 has VOC<year>/ itself:

    VOCdevkit/VOC<year>/JPEGImages/NAME.jpg
    VOCdevkit/VOC<year>/Annotations/NAME.xml
    VOCdevkit/VOC<year>/ImageSets/Main/{train,val,trainval,test}.txt

Names are voc_objects_<year>_<split>; Detectron2 owns voc_<year>_<split>, whose records have no boxes until its own
loader reads them. VOC counts pixels from 1, and its right and bottom ends belong to the box: here they are from 0, and
excluded. Difficult objects are as COCO's crowds: neither trained on nor asked for. The score is COCO's AP, not VOC's.
"""

from __future__ import annotations

import functools
import os
from xml.etree import ElementTree

from scaleeq.choices import one_of
from scaleeq.records import Json

from ..picture_file import require_file
from .catalog import Record, datasets_root, register_dataset
from .listing import ROOT_FOLDERS, read_names
from .voc2012 import CLASSES as CLASSES_AND_BACKGROUND

CLASSES = CLASSES_AND_BACKGROUND[1:]
SPLITS = {2007: ("train", "val", "trainval", "test"), 2012: ("train", "val", "trainval")}


def load_voc_objects(year: int, split: str, root: str | None = None) -> list[Record]:
    """Records of a split, in the order of its list, with boxes.

    FileNotFoundError: a missing directory, list, image or annotation. ValueError: another split, or an annotation that
    cannot be meant.
    """
    one_of(split, SPLITS[year], key=f"the split of VOC {year}")
    root = datasets_root() if root is None else root
    folders = [os.path.join("VOCdevkit", f"VOC{year}"), f"VOC{year}"]
    bases = [os.path.join(root, above, folder) for above in ROOT_FOLDERS for folder in folders]
    base = next((path for path in bases if os.path.isdir(os.path.join(path, "Annotations"))), None)
    if base is None:
        raise FileNotFoundError(
            f"VOC {year} detection needs {os.path.join(os.path.abspath(bases[0]), 'Annotations')}, JPEGImages and "
            "ImageSets/Main there. Set the environment variable DETECTRON2_DATASETS to the directory above"
        )
    names = read_names(os.path.join(base, "ImageSets", "Main", f"{split}.txt"), f"VOC {year} ({split})")
    names = [name.split()[0] for name in names]
    images = os.path.join(base, "JPEGImages")
    there = set(os.listdir(images)) if os.path.isdir(images) else set()
    if missing := [name for name in names if f"{name}.jpg" not in there]:
        raise FileNotFoundError(
            f"VOC {year} ({split}): {len(missing)} of {len(names)} images are missing, the first is "
            f"{os.path.join(os.path.abspath(images), missing[0])}.jpg; complete the copy"
        )
    return [
        _record(os.path.join(images, f"{name}.jpg"), os.path.join(base, "Annotations", f"{name}.xml")) for name in names
    ]


def _record(image: str, path: str) -> Record:
    require_file(path)
    try:
        tree = ElementTree.parse(path)
        size = {key: int(float(_text(tree.find("size"), key))) for key in ("height", "width")}
        annotations = [_annotation(element) for element in tree.iter("object")]
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(f"{path} is no annotation of VOC: {error}") from error
    name = os.path.splitext(os.path.basename(image))[0]
    return {"file_name": image, "image_id": name, **size, "annotations_file_name": path, "annotations": annotations}


def _annotation(element: ElementTree.Element) -> Json:
    """An object's, with its box as left, top, right, bottom."""
    name, box = _text(element, "name"), element.find("bndbox")
    if name not in CLASSES:
        raise ValueError(f"it has an object {name!r}, which is none of the classes {', '.join(CLASSES)}")
    left, top, right, bottom = (float(_text(box, key)) for key in ("xmin", "ymin", "xmax", "ymax"))
    difficult = element.findtext("difficult", "0").strip() == "1"
    return {
        "category_id": CLASSES.index(name),
        "bbox": [left - 1, top - 1, right, bottom],
        "bbox_mode": 0,
        "iscrowd": int(difficult),
    }


def _text(element: ElementTree.Element | None, key: str) -> str:
    """What stands in a part of an element. LookupError: there is no such part."""
    text = None if element is None else element.findtext(key)
    if text is None:
        raise LookupError(f"it has no <{key}> where one is expected")
    return text.strip()


for _year, _splits in SPLITS.items():
    for _split in _splits:
        _load = functools.partial(load_voc_objects, _year, _split)
        register_dataset(f"voc_objects_{_year}_{_split}", _load, classes=(), colors=(), objects=CLASSES)
