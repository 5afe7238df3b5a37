"""Data sets by the name that a user types: the registered ones, and folders of one's own, which need no code.

"folder:PATH" and "folder:PATH/SPLIT", PATH relative to $DETECTRON2_DATASETS or absolute, ~ expanded, are

    PATH/classes.txt                  a class a line, from label 0 on: its name, or its name and colour: "name r g b"
    PATH/images[/SPLIT]/NAME.jpg      .jpg, .jpeg, .png, .bmp, .tif, .tiff, .webp, .jp2, .ppm or .pgm
    PATH/labels[/SPLIT]/NAME.png      one channel, grey or palette: 0..K-1, 255 = void; a SPLIT test* may lack it

and beside labels, or in their place (then without classes.txt), for other tasks, of some images or all:

    PATH/depth[/SPLIT]/NAME.png       16 bits in millimetres, or what depth.txt says that 1 means, in metres; or .npy
    PATH/normals[/SPLIT]/NAME.png     (n + 1) / 2 * 255, or .npy; normals.txt may hold three signs of x, y and z
    PATH/edges[/SPLIT], saliency[/SPLIT], human_parts[/SPLIT]      NAME.png or .npy

or objects in COCO's form, PATH/annotations/instances_SPLIT.json with PATH/SPLIT/, see sets/coco.py.

A class without a colour gets one of VOC's, from label 1's on: black stays void's.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from scaleeq.choices import nearest
from scaleeq.engine import DatasetCatalog, MetadataCatalog

from .classes_file import read_classes
from .sets.catalog import Record, datasets_root, register_dataset
from .sets.coco import CocoFiles, coco_splits, files_of, register_coco_folder
from .sets.dense import records_with_maps
from .sets.listing import Layout, layout_records
from .text_file import read_lines

if TYPE_CHECKING:
    from scaleeq.engine.standalone.data import Metadata

PREFIX = "folder:"
CLASSES_FILE = "classes.txt"
KINDS = ("images", "labels")
MAPS = dict.fromkeys(("depth", "normals", "edges", "saliency", "human_parts"), (".png", ".npy"))
DEPTH_UNIT = "depth.txt"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".jp2", ".ppm", ".pgm")
WHAT_IT_HOLDS = (
    f"A folder data set is PATH/{CLASSES_FILE} (a class a line: its name, or its name and r g b), PATH/images[/SPLIT] "
    "and PATH/labels[/SPLIT], named folder:PATH or folder:PATH/SPLIT"
)


def find_dataset(name: str) -> Metadata:
    """The metadata of a data set; a folder is registered when it is named first.

    name: of a registered data set, or "folder:PATH", "folder:PATH/SPLIT".
    ValueError: there is no such data set; the nearest names are told. FileNotFoundError: the folder lacks something.
    """
    known = DatasetCatalog.list()
    if name not in known:
        if not name.startswith(PREFIX):
            akin = [other for other in known if other.split("_")[0] == name.lower().split("_")[0]]
            near = nearest(name, akin or known, cutoff=0.0 if akin else 0.6)
            ours = [other for other in known if MetadataCatalog.get(other).get("registered_by") == "scaleeq"]
            raise ValueError(
                f"there is no data set {name!r}; {'the nearest are' if near else 'there are'} "
                f"{', '.join(near or ours)}; a folder of your own is named 'folder:PATH' or 'folder:PATH/SPLIT'"
            )
        if (coco := coco_files(name)) is not None:
            register_coco_folder(name, coco)
            return MetadataCatalog.get(name)
        if splits := coco_splits(_places(name)[0][0]):
            raise FileNotFoundError(
                f"{name} is of COCO's form and has the splits {', '.join(splits)}: name one, such as {name}/{splits[0]}"
            )
        base, split = locate(name)
        listed = os.path.join(base, CLASSES_FILE)
        classes, colors = read_classes(listed) if os.path.isfile(listed) else ([], [])
        load = functools.partial(load_folder, base, split, name=name)
        register_dataset(name, load, classes=classes, colors=colors)
    return MetadataCatalog.get(name)


def locate(name: str) -> tuple[str, str]:
    """PATH and SPLIT (or "") of "folder:PATH/SPLIT": PATH is the one that holds classes.txt, or maps of other tasks.

    FileNotFoundError: neither does.
    """
    choices = _places(name)
    for base, split in choices:
        if os.path.isfile(os.path.join(base, CLASSES_FILE)):
            return base, split
    for base, split in choices:
        if os.path.isdir(os.path.join(base, "images")) and any(os.path.isdir(os.path.join(base, key)) for key in MAPS):
            return base, split
    files = " nor ".join(os.path.join(os.path.abspath(base), CLASSES_FILE) for base, _ in choices)
    raise FileNotFoundError(
        f"{name}: there is neither {files}. {WHAT_IT_HOLDS}, PATH absolute or below $DETECTRON2_DATASETS"
    )


def _places(name: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """What PATH and SPLIT of "folder:PATH/SPLIT" may be."""
    path = os.path.normpath(os.path.join(datasets_root(), os.path.expanduser(name.removeprefix(PREFIX))))
    return (path, ""), os.path.split(path)


def coco_files(name: str) -> CocoFiles | None:
    """Those of a folder in COCO's form; None: it is none, or has a list of classes of its own."""
    places = _places(name)
    if any(os.path.isfile(os.path.join(base, CLASSES_FILE)) for base, _ in places):
        return None
    return next((files for base, split in places if (files := files_of(base, split))), None)


def load_folder(base: str, split: str = "", *, name: str = "") -> list[Record]:
    """Records of a folder, sorted by name.

    base: holds images/ and labels/. split: a folder in both, or "". name: the data set's, for messages.
    FileNotFoundError: a missing directory, image or label. ValueError: two images of one name.
    """
    name = name or f"{PREFIX}{os.path.join(base, split)}"
    images, labels = (os.path.join(base, kind, split) if split else os.path.join(base, kind) for kind in KINDS)
    has_maps = any(os.path.isdir(os.path.join(base, key, split)) for key in MAPS)
    if (split.startswith("test") or has_maps) and not os.path.isdir(labels):
        labels = ""
    layout = Layout(used_by="files", images=images, labels=labels, image_suffixes=IMAGE_SUFFIXES)
    if not all(layout.state().values()):
        raise FileNotFoundError("\n".join((f"{name} is not complete:", *layout.report(), _way_out(base, split))))
    if not has_maps:
        return layout_records(name, layout)
    folders = {key: (os.path.join(key, split) if split else key, suffixes) for key, suffixes in MAPS.items()}
    unit = _depth_unit(os.path.join(base, DEPTH_UNIT))
    of_all = {} if unit is None else {"depth_unit": unit}
    return records_with_maps(name, base, layout, folders, of_all=of_all)


def _depth_unit(path: str) -> float | None:
    """What 1 means in a folder's depth, in metres; None: nothing says so. ValueError: the file holds no such number."""
    if not os.path.isfile(path):
        return None
    text = " ".join(read_lines(path)).strip()
    try:
        unit = float(text)
    except ValueError:
        unit = 0.0
    if not 0 < unit < 1e6:
        raise ValueError(f"{path} holds {text!r}; expected what 1 means in metres, such as 0.001 for millimetres")
    return unit


def _way_out(base: str, split: str) -> str:
    images = os.path.join(base, "images")
    splits = sorted(entry.name for entry in os.scandir(images) if entry.is_dir()) if os.path.isdir(images) else []
    if splits and split not in splits:
        return f"It has the splits {', '.join(splits)}: name one, for example {PREFIX}{os.path.join(base, splits[0])}"
    return WHAT_IT_HOLDS
