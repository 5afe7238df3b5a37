"""COCO 2017: objects with boxes and masks (80 classes), and panoptic segments (80 things and 53 kinds of stuff).

Layout, under $DETECTRON2_DATASETS (default ./datasets), Detectron2's and the official one:

    coco/{train,val}2017/NAME.jpg
    coco/annotations/instances_{train,val}2017.json
    coco/annotations/panoptic_{train,val}2017.json
    coco/panoptic_{train,val}2017/NAME.png, or coco/annotations/panoptic_{train,val}2017/NAME.png

coco_instances_2017_* and coco_panoptic_2017_* are ScaleEq's names. Detectron2 owns coco_2017_*, which ScaleEq reads
too; without Detectron2 they are other names of coco_instances_2017_*.

In folders of one's own (`folder:PATH/SPLIT`) the same files, by what is found first:

    PATH/annotations/instances_SPLIT.json, PATH/annotations/SPLIT.json, PATH/SPLIT/_annotations.coco.json
    PATH/annotations/panoptic_SPLIT.json with PATH/annotations/panoptic_SPLIT/ or PATH/panoptic_SPLIT/
    PATH/SPLIT/ or PATH/images/SPLIT/ or PATH/images/ for the images
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scaleeq.engine import DatasetCatalog, MetadataCatalog

from ..coco_file import categories_of, object_records, panoptic_records, read_coco
from .catalog import Record, datasets_root, register_dataset
from .coco_stuff import CLASSES as COCO_STUFF
from .listing import ROOT_FOLDERS
from .voc2012 import voc_color

SPLITS = ("train", "val")
ROBOFLOW = "_annotations.coco.json"
CLASSES = COCO_STUFF[:80]
STUFF_NAMES = """
banner | blanket | bridge | cardboard | counter | curtain | door-stuff | floor-wood | flower | fruit | gravel |
house | light | mirror-stuff | net | pillow | platform | playingfield | railroad | river | road | roof | sand | sea
| shelf | snow | stairs | tent | towel | wall-brick | wall-stone | wall-tile | wall-wood | water-other |
window-blind | window-other | tree-merged | fence-merged | ceiling-merged | sky-other-merged | cabinet-merged |
table-merged | floor-other-merged | pavement-merged | mountain-merged | grass-merged | dirt-merged | paper-merged |
food-other-merged | building-other-merged | rock-merged | wall-other-merged | rug-merged
"""
STUFF = tuple(name.strip() for name in STUFF_NAMES.split("|"))
PANOPTIC_CLASSES = (*CLASSES, *STUFF)


@dataclass(frozen=True)
class CocoFiles:
    """json: its path. images, pictures: folders; pictures: of panoptic segments, "" for a file of objects."""

    json: str
    images: str
    pictures: str = ""

    def records(self) -> list[Record]:
        """Those of the file."""
        if self.pictures:
            return panoptic_records(self.json, self.images, self.pictures)
        return object_records(self.json, self.images)


def load_coco(kind: str, split: str, root: str | None = None) -> list[Record]:
    """Records of COCO 2017. kind: "instances", "panoptic". split: of SPLITS.

    FileNotFoundError: no such files. ValueError: the file contradicts itself, or has other classes.
    """
    root = datasets_root() if root is None else root
    bases = [os.path.join(root, above, "coco") for above in ROOT_FOLDERS]
    found = next((files for base in bases if (files := files_of(base, f"{split}2017", kind))), None)
    if found is None:
        wanted = os.path.join(os.path.abspath(bases[0]), "annotations", f"{kind}_{split}2017.json")
        beside = f"{split}2017/" + (f" and panoptic_{split}2017/" if kind == "panoptic" else "")
        raise FileNotFoundError(
            f"COCO 2017 ({kind}, {split}) needs {wanted}, and {beside} in that coco/. Set the environment variable "
            "DETECTRON2_DATASETS to the directory that holds coco/"
        )
    names = [str(category["name"]) for category in categories_of(read_coco(found.json), found.json)]
    if names != list(CLASSES if kind == "instances" else PANOPTIC_CLASSES):
        raise ValueError(
            f"{found.json} has {len(names)} categories, not COCO's: name it as a folder of your own, "
            f"'folder:{os.path.dirname(os.path.dirname(found.json))}/{split}2017'"
        )
    return found.records()


def files_of(base: str, split: str, kind: str = "") -> CocoFiles | None:
    """Where a split lies in a folder of COCO's form; None: it is none.

    kind: "instances", "panoptic", or "" for the first of them that is there.
    """
    annotations = os.path.join(base, "annotations")
    named = [f"instances_{split}.json", f"{split}.json"] if split else ["instances.json", "annotations.json"]
    candidates = [os.path.join(annotations, name) for name in named]
    candidates.append(os.path.join(base, split, ROBOFLOW))
    images = [os.path.join(base, split), os.path.join(base, "images", split), os.path.join(base, "images"), base]
    folder = next(each for each in images if os.path.isdir(each) or each == base)
    if kind != "panoptic" and (path := next((each for each in candidates if os.path.isfile(each)), None)):
        return CocoFiles(path, folder)
    name = f"panoptic_{split}" if split else "panoptic"
    path = os.path.join(annotations, f"{name}.json")
    if kind != "instances" and os.path.isfile(path):
        pictures = [os.path.join(annotations, name), os.path.join(base, name)]
        return CocoFiles(path, folder, next((each for each in pictures if os.path.isdir(each)), pictures[0]))
    return None


def coco_splits(base: str) -> list[str]:
    """The splits of a folder of COCO's form, by the names of its files, sorted; [] where it is none."""
    folder = os.path.join(base, "annotations")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = {match[1] for name in names if (match := re.fullmatch(r"(?:instances|panoptic)_(.+)\.json", name))}
    if os.path.isdir(base):
        found |= {entry.name for entry in os.scandir(base) if os.path.isfile(os.path.join(entry.path, ROBOFLOW))}
    return sorted(found)


def register_coco_folder(name: str, files: CocoFiles) -> None:
    """Register a folder of COCO's form under the name, with the classes of its file. ValueError: they are wrong."""
    categories = categories_of(read_coco(files.json), files.json)
    names = [str(category["name"]) for category in categories]
    if files.pictures:
        things = [n for n, category in enumerate(categories) if category.get("isthing")]
        _register(name, files.records, classes=names, things=things)
    else:
        _register(name, files.records, objects=names)


def _register(
    name: str,
    load: Callable[[], list[Record]],
    *,
    classes: Sequence[str] = (),
    things: Sequence[int] = (),
    objects: Sequence[str] = (),
) -> None:
    """classes: of panoptic labels, of which `things` are objects; or objects: their names, without labels."""
    register_dataset(
        name,
        load,
        classes=classes,
        colors=[voc_color(label + 1) for label in range(len(classes))],
        objects=objects or [classes[label] for label in things],
        panoptic_things=things if classes else None,
    )


for _split in SPLITS:
    _register(f"coco_instances_2017_{_split}", functools.partial(load_coco, "instances", _split), objects=CLASSES)
    if (_name := f"coco_2017_{_split}") not in DatasetCatalog.list():  # Detectron2's name, where it is not there
        DatasetCatalog.register(_name, functools.partial(load_coco, "instances", _split))
        MetadataCatalog.get(_name).set(thing_classes=list(CLASSES), evaluator_type="coco")
    _register(
        f"coco_panoptic_2017_{_split}",
        functools.partial(load_coco, "panoptic", _split),
        classes=PANOPTIC_CLASSES,
        things=range(len(CLASSES)),
    )
