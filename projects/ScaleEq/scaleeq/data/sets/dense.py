"""Data sets of several dense tasks, in the layouts of the work on them, under $DETECTRON2_DATASETS:

    NYUD_MT/  images/NAME.{jpg,png}, segmentation/NAME.png (0 = void, 1..40), depth/NAME.npy (metres, 0 = unknown),
              normals/NAME.{npy,png}, edge/NAME.{npy,png}, gt_sets/{train,val}.txt             MTI-Net, ATRC, InvPT
    nyuv2/    {train,val}/{image,label,depth,normal}/0.npy, 288 x 384, labels -1 = void, 0..12           MTAN, LibMTL
    nyuv2/    nyu_depth_v2_labeled.mat, splits.mat, and for labels classMapping40.mat             the official files
    PASCAL_MT/  JPEGImages/NAME.jpg, ImageSets/Context/{train,val}.txt, semseg/VOC12/NAME.png,
              pascal-context/trainval/NAME.mat (edges), human_parts/NAME.mat, normals_distill/NAME.png,
              sal_distill/NAME.png; normals and saliency are DISTILLED, predicted by other networks
    cityscapes/disparity/SPLIT/CITY/NAME_disparity.png, cityscapes/camera/SPLIT/CITY/NAME_camera.json

A file normals.txt beside them, three signs such as "1 -1 -1", turns axes of normals that a source has the other way
round: here x is to the right, y down, z into the scene.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence

from scaleeq.choices import one_of

from .. import matlab
from ..maps import read_npy_pair
from ..text_file import read_lines
from .catalog import IGNORE_LABEL, Record, datasets_root, register_dataset
from .cityscapes import CLASSES as CITYSCAPES_CLASSES
from .cityscapes import COLORS as CITYSCAPES_COLORS
from .cityscapes import load_cityscapes
from .listing import ROOT_FOLDERS, Layout, MissingFilesError, files_by_name, layout_records, read_names
from .voc2012 import CLASSES as VOC_CLASSES
from .voc2012 import COLORS as VOC_COLORS
from .voc2012 import voc_color

logger = logging.getLogger(__name__)

NYUD_40 = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip
NYUV2_13 = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv", "wall",
    "window",
)  # fmt: skip
SHIFTED = {0: IGNORE_LABEL, **{raw: raw - 1 for raw in range(1, 41)}}
CITYSCAPES_JUNK = (1, 2, 3, 23)  # ego vehicle, rectification border, out of roi, sky: no depth there
NAMES_SHOWN = 3


def load_nyud_mt(split: str, root: str | None = None) -> list[Record]:
    """Records of a split, in the order of its list; maps that an image lacks are void for it.

    ValueError: another split. FileNotFoundError: a missing directory, list, image or label.
    """
    base = _base("NYUD_MT", ("NYUD_MT",), split, ("train", "val"), root)
    layout = Layout(
        used_by="the MTL community's copy",
        images=f"{base}/images",
        labels=f"{base}/segmentation",
        image_suffixes=(".jpg", ".png"),
        label_map=SHIFTED,
        names=f"{base}/gt_sets/{split}.txt",
    )
    arrays = (".npy", ".png")
    folders = {"depth": ("depth", (".npy",)), "normals": ("normals", arrays), "edges": ("edge", arrays)}
    return records_with_maps(f"NYUD_MT ({split})", base, layout, folders)


def load_nyuv2_mtan(split: str, root: str | None = None) -> list[Record]:
    """Records of MTAN's and LibMTL's arrays, in the order of their numbers."""
    base = _base("NYUv2 of LibMTL", ("nyuv2", "nyuv2_mtan"), split, ("train", "val"), root, holds=f"{split}/image")
    files = files_by_name(f"{base}/{split}/image", (".npy",))
    records = []
    for name in sorted(files, key=lambda name: (len(name), name)):
        folders = {key: f"{base}/{split}/{key}/{name}.npy" for key in ("image", "label", "depth", "normal")}
        read = functools.partial(read_npy_pair, folders["image"], folders["label"])
        maps = {"depth_file_name": folders["depth"], "normals_file_name": folders["normal"]}
        maps = {key: path for key, path in maps.items() if os.path.isfile(path)}
        records.append({"file_name": folders["image"], "image_id": name, "read": read, **maps, **axes_of(base)})
    return records


def load_nyuv2(split: str, root: str | None = None) -> list[Record]:
    """Records of the official file, by their number in it; without classMapping40.mat they have no labels.

    ImportError: h5py is not installed.
    """
    base = _base("NYUv2", ("nyuv2", "NYUv2", ""), split, ("train", "test"), root, holds=matlab.NYU_FILE)
    path, mapping = f"{base}/{matlab.NYU_FILE}", f"{base}/{matlab.NYU_MAP}"
    numbers = matlab.read_split(f"{base}/splits.mat", "trainNdxs" if split == "train" else "testNdxs")
    records = []
    for number in numbers:
        pair = functools.partial(matlab.read_nyu_pair, path, mapping, number=number)
        image = functools.partial(matlab.read_nyu_image, path, number=number)
        read = {"read": pair} if os.path.isfile(mapping) else {"read_image": image}
        depth = functools.partial(matlab.read_nyu_depth, path, number=number)
        records.append({"file_name": f"{path}/{number:04d}", "image_id": f"{number:04d}", **read, "read_depth": depth})
    return records


def load_pascal_mt(split: str, root: str | None = None) -> list[Record]:
    """Records of Pascal-Context's split; images without labels are named in a warning, and have none."""
    base = _base("PASCAL_MT", ("PASCAL_MT",), split, ("train", "val"), root)
    names = read_names(f"{base}/ImageSets/Context/{split}.txt", f"PASCAL_MT ({split})")
    layout = Layout(used_by="the MTL community's copy", images=f"{base}/JPEGImages")
    folders = {
        "sem_seg": ("semseg/VOC12", (".png",)),
        "edges": ("pascal-context/trainval", (".mat",)),
        "human_parts": ("human_parts", (".mat",)),
        "normals": ("normals_distill", (".png",)),
        "saliency": ("sal_distill", (".png",)),
    }
    return records_with_maps(f"PASCAL_MT ({split})", base, layout, folders, names)


def load_cityscapes_depth(split: str, root: str | None = None) -> list[Record]:
    """Cityscapes' records with disparities, which its cameras turn into depth; sky and own car have none."""
    one_of(split, ("train", "val"), key="the split of Cityscapes with depth")
    records = load_cityscapes(split, root)
    base = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(records[0]["file_name"]))))
    found = {
        key: files_by_name(f"{base}/{kind}/{split}", (f"_{kind}{end}",), nested=True)
        for key, kind, end in (("depth", "disparity", ".png"), ("camera", "camera", ".json"))
        if os.path.isdir(f"{base}/{kind}/{split}")
    }
    if len(found) < 2:
        raise FileNotFoundError(
            f"Cityscapes with depth ({split}) needs {base}/disparity/{split} and {base}/camera/{split}: unpack "
            "disparity_trainvaltest.zip and camera_trainvaltest.zip"
        )
    for record in records:
        folder, file = os.path.split(record["file_name"])
        name = os.path.join(os.path.basename(folder), file.removesuffix("_leftImg8bit.png"))
        if name in found["depth"] and name in found["camera"]:
            record["depth_file_name"] = os.path.join(base, "disparity", split, found["depth"][name])
            record["camera_file_name"] = os.path.join(base, "camera", split, found["camera"][name])
            if "label_map" in record:
                record["depth_void_labels"] = CITYSCAPES_JUNK
    return records


Folders = Mapping[str, tuple[str, tuple[str, ...]]]
"""Key of a map -> folder below the data set's base, and suffixes of its files."""


def records_with_maps(
    what: str,
    base: str,
    layout: Layout,
    folders: Folders,
    names: Sequence[str] | None = None,
    *,
    of_all: Record | None = None,
) -> list[Record]:
    """The layout's records with the files of other tasks. MissingFilesError has what there is, with its maps.

    of_all: what each record gets besides.
    """
    records: list[Record] = []
    try:
        records = layout_records(what, layout, names)
    except MissingFilesError as error:
        records = error.records
        raise
    finally:
        attach_maps(what, base, records, folders)
        for record in records:
            record.update(of_all or {})
    return records


def attach_maps(what: str, base: str, records: list[Record], folders: Folders) -> list[Record]:
    """The records with the files of other tasks, "<key>_file_name"; a warning says how many have none.

    A folder that is not there has none.
    """
    for key, (folder, suffixes) in folders.items():
        path = os.path.join(base, folder)
        if not os.path.isdir(path):
            continue
        files = files_by_name(path, suffixes)
        stems = [os.path.splitext(os.path.basename(record["file_name"]))[0] for record in records]
        for record, stem in zip(records, stems, strict=True):
            if stem in files:
                record[f"{key}_file_name"] = os.path.join(path, files[stem])
        if missing := [stem for stem in stems if stem not in files]:
            shown = ", ".join(missing[:NAMES_SHOWN]) + (", ..." if len(missing) > NAMES_SHOWN else "")
            logger.warning(
                "%s: %d of %d images have no %s in %s: %s", what, len(missing), len(records), key, path, shown
            )
    for record in records:
        record.update(axes_of(base))
    return records


def axes_of(base: str) -> Record:
    """{"normals_flip": axes} of a file normals.txt; {} without. ValueError: it does not hold three signs."""
    path = os.path.join(base, "normals.txt")
    if not os.path.isfile(path):
        return {}
    signs = " ".join(read_lines(path)).split()
    if len(signs) != 3 or not set(signs) <= {"1", "-1", "+1"}:
        raise ValueError(f"{path} holds {' '.join(signs)!r}; expected three signs of x, y and z, such as 1 -1 -1")
    return {"normals_flip": tuple(axis for axis, sign in enumerate(signs) if sign == "-1")}


def _base(
    what: str, folders: Sequence[str], split: str, splits: Sequence[str], root: str | None, *, holds: str = ""
) -> str:
    """The folder that there is, of some. FileNotFoundError: none."""
    one_of(split, splits, key=f"the split of {what}")
    root = datasets_root() if root is None else root
    paths = [os.path.join(root, above, folder) for above in ROOT_FOLDERS for folder in folders]
    found = next((path for path in paths if os.path.exists(os.path.join(path, holds))), None)
    if found is None:
        looked = " nor ".join(os.path.join(os.path.abspath(path), holds) for path in paths[: len(folders)])
        raise FileNotFoundError(
            f"{what} ({split}): there is neither {looked}. Set the environment variable DETECTRON2_DATASETS to the "
            "directory that holds it"
        )
    return found.rstrip("/")


_NYUD_COLORS, _NYUV2_COLORS = ([voc_color(label + 1) for label in range(len(names))] for names in (NYUD_40, NYUV2_13))
for _name, _load, _splits, _classes, _colors in (
    ("nyud_mt", load_nyud_mt, ("train", "val"), NYUD_40, _NYUD_COLORS),
    ("nyuv2_mtan", load_nyuv2_mtan, ("train", "val"), NYUV2_13, _NYUV2_COLORS),
    ("nyuv2", load_nyuv2, ("train", "test"), NYUD_40, _NYUD_COLORS),
    ("pascal_mt", load_pascal_mt, ("train", "val"), VOC_CLASSES, VOC_COLORS),
    ("cityscapes_depth", load_cityscapes_depth, ("train", "val"), CITYSCAPES_CLASSES, CITYSCAPES_COLORS),
):
    for _split in _splits:
        register_dataset(f"{_name}_{_split}", functools.partial(_load, _split), classes=_classes, colors=_colors)
