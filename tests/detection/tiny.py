"""The smallest run of a detector: toy/mask_rcnn, 16 channels wide, on a few toy 3-D scenes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from scaleeq import get_config
from scaleeq.data import find_dataset
from scaleeq.data.sets.catalog import register_dataset
from scaleeq.data.sets.toy3d import CLASSES, COLORS, THINGS
from scaleeq.engine import CfgNode, DatasetCatalog

TEST_SET = "tiny_toy3d_val"


def first_scenes(size: int) -> list[dict]:
    find_dataset("toy3d_val")
    return DatasetCatalog.get("toy3d_val")[:size]


def tiny_config(output_dir: Path, name: str = "toy/mask_rcnn", **changes: Any) -> CfgNode:
    """changes: with "__" for "." in the names of keys."""
    objects = [CLASSES[label] for label in THINGS]
    about = {"classes": CLASSES, "colors": COLORS, "objects": objects, "panoptic_things": THINGS}
    register_dataset(TEST_SET, partial(first_scenes, 3), **about)
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.PYRAMID.CHANNELS": 16,
        "MODEL.DETECTOR.BOX_DIM": 32,
        "MODEL.DETECTOR.MASK_DIM": 16,
        "MODEL.DETECTOR.REGIONS_PER_IMAGE": 16,
        "MODEL.SCALE_EQUALIZER.NUM_IMAGES": 4,
        "DATASETS.TRAIN_FRACTION": 0.02,
        "DATASETS.TEST": [TEST_SET],
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.WARMUP_ITERS": 1,
        "SOLVER.MAX_ITER": 4,
        "OUTPUT_DIR": str(output_dir),
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    cfg = get_config(name, [word for pair in options.items() for word in pair])
    cfg.freeze()
    return cfg
