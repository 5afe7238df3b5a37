"""CamVid (Brostow et al., 2009) as SegNet distributes it: 367 / 101 / 233 images of 360 x 480, 11 classes and void.

Layout, under $DETECTRON2_DATASETS (default ./datasets):

    CamVid/{train,val,test}/NAME.{png,jpg}        images
    CamVid/{train,val,test}annot/NAME.png         labels, one channel: 0..10, 11 = unlabelled (read as void, 255)

The lists train.txt, val.txt, test.txt (pairs of paths that start with /SegNet/CamVid/) are not needed: they name every
file of their directory. Class names, their order and their colours are those of the script in the SegNet tutorial.
"""

from __future__ import annotations

import functools

from scaleeq.choices import one_of

from .catalog import IGNORE_LABEL, Record, read_table, register_dataset
from .listing import Layout, load_layout

CLASSES, COLORS = read_table("""
Sky 128 128 128 | Building 128 0 0 | Pole 192 192 128 | Road 128 64 128 | Pavement 60 40 222 | Tree 128 128 0 |
SignSymbol 192 128 128 | Fence 64 64 128 | Car 64 0 128 | Pedestrian 64 64 0 | Bicyclist 0 128 192
""")
SPLITS = ("train", "val", "test")
LABEL_MAP = {11: IGNORE_LABEL}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def load_camvid(split: str, root: str | None = None) -> list[Record]:
    """Records of a split, sorted by name.

    split: "train", "val" or "test". root: the directory that holds CamVid/, by default $DETECTRON2_DATASETS.
    FileNotFoundError: a missing directory, image or label. ValueError: another split, or two images of one name.
    """
    one_of(split, SPLITS, key="the split of CamVid")
    layout = Layout(
        used_by="SegNet's copy",
        images=f"CamVid/{split}",
        labels=f"CamVid/{split}annot",
        image_suffixes=IMAGE_SUFFIXES,
        label_map=LABEL_MAP,
    )
    return load_layout(f"CamVid ({split})", (layout,), root=root)


for _split in SPLITS:
    register_dataset(f"camvid_sem_seg_{_split}", functools.partial(load_camvid, _split), classes=CLASSES, colors=COLORS)
