"""Cityscapes, fine labels (Cordts et al., 2016): 2,975 / 500 / 1,525 images of 1024 x 2048 pixels, 19 classes.

Layout of the official archives, under $DETECTRON2_DATASETS (default ./datasets):

    cityscapes/leftImg8bit/{train,val,test}/CITY/NAME_leftImg8bit.png
    cityscapes/gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png             0..33

The archives' labelIds become the 19 training labels on reading, so that no labelTrainIds have to be made first. The
labels of test are not public; its records have none. Ids, names and colours: cityscapesScripts, helpers/labels.py.
"""

from __future__ import annotations

import functools
import os

from scaleeq.data.catalog import IGNORE_LABEL, Record, datasets_root, register_dataset
from scaleeq.data.listing import paired_records, require_directory, stems

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

SPLITS = ("train", "val", "test")
IMAGE_SUFFIX, LABEL_SUFFIX = "_leftImg8bit.png", "_gtFine_labelIds.png"


def load_cityscapes(split: str, root: str | None = None) -> list[Record]:
    """Records of a split, sorted by city and name.

    split: "train", "val" or "test". root: the directory that holds cityscapes/, by default $DETECTRON2_DATASETS.
    FileNotFoundError: a missing directory or label, or no image. ValueError: another split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of Cityscapes, valid are {SPLITS}")
    base = os.path.join(datasets_root() if root is None else root, "cityscapes")
    images, labels = os.path.join(base, "leftImg8bit", split), os.path.join(base, "gtFine", split)
    what, layout = f"Cityscapes ({split})", "cityscapes/ with the archives' leftImg8bit/ and gtFine/"
    require_directory(images, what, layout)
    records: list[Record] = []
    for city in sorted(entry.name for entry in os.scandir(images) if entry.is_dir()):
        image_dir, label_dir = os.path.join(images, city), os.path.join(labels, city)
        names = sorted(stems(image_dir, IMAGE_SUFFIX))
        if split == "test":
            records += [{"file_name": os.path.join(image_dir, n + IMAGE_SUFFIX), "image_id": n} for n in names]
        elif names:
            require_directory(label_dir, what, layout)
            records += paired_records(
                names,
                images=(image_dir, IMAGE_SUFFIX),
                labels=(label_dir, LABEL_SUFFIX),
                what=what,
                label_map=LABEL_MAP,
            )
    if not records:
        raise FileNotFoundError(f"{what}: no CITY/NAME{IMAGE_SUFFIX} in {os.path.abspath(images)}")
    return records


for _split in SPLITS:
    register_dataset(
        f"cityscapes_sem_seg_{_split}", functools.partial(load_cityscapes, _split), classes=CLASSES, colors=COLORS
    )
