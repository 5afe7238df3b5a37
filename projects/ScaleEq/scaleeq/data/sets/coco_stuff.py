"""COCO-Stuff-10K (Caesar et al., 2018), v1.0 and v1.1: 9,000 / 1,000 images, 80 things and 91 kinds of stuff.

Layouts, under $DETECTRON2_DATASETS (default ./datasets), BASE being coco/coco_stuff_10k or coco_stuff10k:

    BASE/images/NAME.jpg, BASE/imageLists/{train,test}.txt                          the official archive, and
    BASE/annotations_{v10,v11}/NAME.png                                             0..170, 255: scaleeq data prepare
    BASE/{images,annotations}_detectron2/{train,test}/NAME.{jpg,png}                0..170, 255: MaskFormer, v1.0
    BASE/{images,annotations}/{train,test}2014/NAME{.jpg,_labelTrainIds.png}        0 = void, 1..171: mmsegmentation

The archive's labels are BASE/annotations/NAME.mat: `scaleeq data prepare coco-stuff-10k` tells the versions
apart and makes pictures of them. The versions have the same classes in the same order, under other raw values.

Names and their order: the authors' cocostuff-labels.txt, without the 11 ids that never occur. Colours are VOC's of the
labels plus one, computed, so that no two classes share one (as they do in mmsegmentation's table) and black is void.
"""

from __future__ import annotations

import functools

from scaleeq.choices import one_of

from .catalog import IGNORE_LABEL, Record, register_dataset
from .listing import Layout, load_layout
from .voc2012 import voc_color

CLASS_NAMES = """
person | bicycle | car | motorcycle | airplane | bus | train | truck | boat | traffic light | fire hydrant | stop sign |
parking meter | bench | bird | cat | dog | horse | sheep | cow | elephant | bear | zebra | giraffe | backpack | umbrella
| handbag | tie | suitcase | frisbee | skis | snowboard | sports ball | kite | baseball bat | baseball glove |
skateboard | surfboard | tennis racket | bottle | wine glass | cup | fork | knife | spoon | bowl | banana | apple |
sandwich | orange | broccoli | carrot | hot dog | pizza | donut | cake | chair | couch | potted plant | bed | dining
table | toilet | tv | laptop | mouse | remote | keyboard | cell phone | microwave | oven | toaster | sink | refrigerator
| book | clock | vase | scissors | teddy bear | hair drier | toothbrush | banner | blanket | branch | bridge |
building-other | bush | cabinet | cage | cardboard | carpet | ceiling-other | ceiling-tile | cloth | clothes | clouds |
counter | cupboard | curtain | desk-stuff | dirt | door-stuff | fence | floor-marble | floor-other | floor-stone |
floor-tile | floor-wood | flower | fog | food-other | fruit | furniture-other | grass | gravel | ground-other | hill |
house | leaves | light | mat | metal | mirror-stuff | moss | mountain | mud | napkin | net | paper | pavement | pillow |
plant-other | plastic | platform | playingfield | railing | railroad | river | road | rock | roof | rug | salad | sand |
sea | shelf | sky-other | skyscraper | snow | solid-other | stairs | stone | straw | structural-other | table | tent |
textile-other | towel | tree | vegetable | wall-brick | wall-concrete | wall-other | wall-panel | wall-stone | wall-tile
| wall-wood | water-other | waterdrops | window-blind | window-other | wood
"""
CLASSES = tuple(" ".join(name.split()) for name in CLASS_NAMES.split("|"))
COLORS = tuple(voc_color(label + 1) for label in range(len(CLASSES)))
# mmsegmentation's pictures: 0 is void. 255 does not occur there, becomes 254, and is refused.
MMSEG_LABEL_MAP = {0: IGNORE_LABEL, **{raw: raw - 1 for raw in range(1, 256)}}

VERSIONS = ("v10", "v11")
SPLITS = ("train", "test")
BASES = ("coco/coco_stuff_10k", "coco_stuff10k")
LABELS = {version: f"annotations_{version}" for version in VERSIONS}


def layouts(version: str, split: str) -> list[Layout]:
    """Where a split may lie."""
    prepared = [
        Layout(
            used_by="scaleeq data prepare coco-stuff-10k",
            images=f"{base}/images",
            labels=f"{base}/{LABELS[version]}",
            names=f"{base}/imageLists/{split}.txt",
        )
        for base in BASES
    ]
    if version == "v10":
        converted = [
            Layout(
                used_by="MaskFormer",
                images=f"{base}/images_detectron2/{split}",
                labels=f"{base}/annotations_detectron2/{split}",
            )
            for base in BASES
        ]
    else:
        converted = [
            Layout(
                used_by="mmsegmentation",
                images=f"{base}/images/{split}2014",
                labels=f"{base}/annotations/{split}2014",
                label_suffix="_labelTrainIds.png",
                label_map=MMSEG_LABEL_MAP,
            )
            for base in BASES
        ]
    return prepared + converted


def load_coco_stuff(version: str, split: str, root: str | None = None) -> list[Record]:
    """Records of a split, in the order of its list, or sorted by name.

    version: "v10" or "v11". split: "train" or "test".
    root: the directory of all data sets, by default $DETECTRON2_DATASETS.
    FileNotFoundError: a missing directory, image or label. ValueError: another version or split.
    """
    one_of(version, VERSIONS, key="the version of COCO-Stuff-10K")
    one_of(split, SPLITS, key="the split of COCO-Stuff-10K")
    way_out = "The archive's .mat files are converted by: scaleeq data prepare coco-stuff-10k"
    return load_layout(f"COCO-Stuff-10K {version} ({split})", layouts(version, split), root=root, way_out=way_out)


for _version in VERSIONS:
    for _split in SPLITS:
        register_dataset(
            f"coco_stuff_10k_{_version}_sem_seg_{_split}",
            functools.partial(load_coco_stuff, _version, _split),
            classes=CLASSES,
            colors=COLORS,
        )
