"""The smallest run that goes through everything: ResNet-18, width 8, crops of 64 x 64 pixels, four test images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from scaleeq.data.sets.catalog import register_dataset
from scaleeq.data.sets.toy import CLASSES, COLORS
from scaleeq.engine import CfgNode, DatasetCatalog, LRScheduler, load_config
from scaleeq.training import Trainer
from scaleeq.training.scale_hooks import CalibrationHook

BASE = Path(__file__).parents[2] / "configs" / "Base.yaml"
# One step of any recipe, on toy scenes.
TOY_STEP: dict[str, Any] = {
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 8,
    "DATASETS.TRAIN": ("toy_sem_seg_train",),
    "DATASETS.TEST": ("toy_sem_seg_val",),
    "INPUT.MIN_SIZE_TRAIN": (64, 96),
    "INPUT.CROP.SIZE": (64, 64),
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 1,
    "TEST.EVAL_PERIOD": 0,
}
TEST_SET, OTHER_TEST_SET = "tiny_sem_seg_val", "tinier_sem_seg_val"

OPTIONS: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.NAME": "resnet18",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 8,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 8,
    "MODEL.SEM_SEG_HEAD.DROPOUT": 0.0,  # the random state is not part of a checkpoint
    "MODEL.AUX_HEAD.CONVS_DIM": 8,
    "MODEL.SCALE_EQUALIZER.NUM_IMAGES": 4,
    "DATASETS.TRAIN": ("toy_sem_seg_train",),
    "DATASETS.TEST": (TEST_SET,),
    "INPUT.MIN_SIZE_TRAIN": (96, 128),
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "absolute",
    "INPUT.CROP.SIZE": [64, 64],
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.002,
    "SOLVER.WARMUP_ITERS": 1,
    "SOLVER.MAX_ITER": 3,
}


def first_scenes(size: int) -> list[dict]:
    return DatasetCatalog.get("toy_sem_seg_val")[:size]


def tiny_config(output_dir: Path, **changes: Any) -> CfgNode:
    """changes: with "__" for "." in the names of keys."""
    for name, size in ((TEST_SET, 4), (OTHER_TEST_SET, 2)):
        register_dataset(name, partial(first_scenes, size), classes=CLASSES, colors=COLORS)
    options = {**OPTIONS, "OUTPUT_DIR": str(output_dir), **{k.replace("__", "."): v for k, v in changes.items()}}
    cfg = load_config(BASE, [word for pair in options.items() for word in pair])
    cfg.freeze()
    return cfg


class OneStep(Trainer):
    """The trainer without what evaluates or writes."""

    def build_hooks(self):
        return [hook for hook in super().build_hooks() if isinstance(hook, CalibrationHook | LRScheduler)]
