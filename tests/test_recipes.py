"""The recipes on ADE20K, VOC 2012 and Cityscapes: their facts as literal numbers, and one training step of each.

Oracle of the facts: the configs of mmsegmentation 1.2.2 that the recipes name, read by hand. The step is the trainer's,
on crops of 64 pixels of toy scenes and with narrow heads; backbones are at full width and depth, with random weights.
"""

from __future__ import annotations

import pytest
import torch

import scaleeq.data  # noqa: F401  (registers the data sets)
from scaleeq.engine import MetadataCatalog, load_config
from scaleeq.equalization.calibration import require_calibrated
from scaleeq.inference import InferenceOptions
from scaleeq.training.setup import check_schedule
from scaleeq.training.step import micro_batch_size
from tests.training.tiny import TOY_STEP, OneStep

BACKBONES = ("swin_tiny", "twins_svt_small", "twins_pcpvt_small", "convnext_tiny", "r50")
SETS = ("ade20k", "voc2012", "cityscapes")
RECIPES = [f"{name}/uper_{backbone}" for name in SETS for backbone in BACKBONES]

# Data set: classes, images an iteration, iterations, crop, short sides in training, short side in testing.
SET_FACTS = {
    "ade20k": (150, 16, 160000, [512, 512], [256, 1024], 512),
    "voc2012": (21, 16, 40000, [512, 512], [256, 1024], 512),
    "cityscapes": (19, 8, 80000, [512, 1024], [512, 2048], 0),
}
# Backbone: optimizer, learning rate, weight decay, warm-up, power of the decay, its floor, drop path, level norms, AMP.
BACKBONE_FACTS = {
    "swin_tiny": ("ADAMW", 6e-5, 0.01, 1500, 1.0, 0.0, 0.3, True, False),
    "twins_svt_small": ("ADAMW", 6e-5, 0.01, 1500, 1.0, 0.0, 0.2, True, False),
    "twins_pcpvt_small": ("ADAMW", 6e-5, 0.01, 1500, 1.0, 0.0, 0.2, False, False),
    "convnext_tiny": ("ADAMW", 1e-4, 0.05, 1500, 1.0, 0.0, 0.4, True, True),
    "r50": ("SGD", 0.01, 5e-4, 0, 0.9, 0.01, 0.0, False, False),
}
# Backbone: the (learning rate, weight decay) of all parameter groups.
GROUPS = {
    "swin_tiny": {(6e-5, 0.01), (6e-5, 0.0)},
    "twins_svt_small": {(6e-5, 0.01), (6e-5, 0.0)},
    "twins_pcpvt_small": {(6e-5, 0.01), (6e-5, 0.0)},
    "convnext_tiny": {
        (lr, decay) for lr in (4.782969e-5, 5.31441e-5, 5.9049e-5, 6.561e-5, 7.29e-5, 1e-4) for decay in (0.05, 0.0)
    },
    "r50": {(0.01, 5e-4)},
}


def config(recipe, *options):
    return load_config(recipe, list(options))


@pytest.mark.parametrize("recipe", RECIPES)
def test_facts_of_the_data_set(recipe):
    cfg, name = config(recipe), recipe.split("/")[0]
    classes, batch, iterations, crop, sides, test_side = SET_FACTS[name]
    if recipe == "ade20k/uper_twins_pcpvt_small":
        batch = 32  # as the model zoo's number was trained
    random_crop, head = cfg.INPUT.CROP, cfg.MODEL.SEM_SEG_HEAD
    numbers = [head.NUM_CLASSES, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.INPUT.MIN_SIZE_TEST]
    assert numbers == [classes, batch, iterations, test_side]
    assert [random_crop.ENABLED, random_crop.TYPE, list(random_crop.SIZE)] == [True, "absolute", crop]
    assert [list(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING] == [sides, "range"]
    assert random_crop.SINGLE_CATEGORY_MAX_AREA == 0.75
    assert cfg.INPUT.MAX_SIZE_TRAIN == 4096, "images of 2:1 are scaled as far as others"
    assert cfg.INPUT.COLOR_AUG_SSD and cfg.INPUT.RANDOM_FLIP == "horizontal" and cfg.INPUT.FORMAT == "RGB"
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert dataset.startswith(name) and len(MetadataCatalog.get(dataset).stuff_classes) == classes


@pytest.mark.parametrize("recipe", RECIPES)
def test_facts_of_the_model(recipe):
    cfg = config(recipe)
    solver, model = cfg.SOLVER, cfg.MODEL
    facts = (
        solver.OPTIMIZER, solver.BASE_LR, solver.WEIGHT_DECAY, solver.WARMUP_ITERS, solver.POLY_LR_POWER,
        solver.POLY_LR_CONSTANT_ENDING, model.TIMM.DROP_PATH_RATE, model.TIMM.LEVEL_NORM, solver.AMP.ENABLED,
    )  # fmt: skip
    assert facts == BACKBONE_FACTS[recipe.partition("uper_")[2]]
    assert (solver.LR_SCHEDULER_NAME, solver.MOMENTUM) == ("WarmupPolyLR", 0.9)
    head, auxiliary = model.SEM_SEG_HEAD, model.AUX_HEAD
    assert (head.NAME, head.CONVS_DIM, head.DROPOUT, head.NORM) == ("UPerHead", 512, 0.1, "SyncBN")
    assert (list(auxiliary.IN_FEATURES), list(auxiliary.LOSS_WEIGHTS), auxiliary.CONVS_DIM) == (["res4"], [0.4], 256)
    assert model.LOSS.AVERAGE_OVER == "all" and model.TIMM.PRETRAINED and not model.SCALE_EQUALIZER.ENABLED


@pytest.mark.parametrize("recipe", RECIPES)
def test_facts_of_the_evaluation(recipe):
    """One pass over the image, ConvNeXt's windows on ADE20K aside; several scales and flips are one key away."""
    windows = (512, 512) if recipe == "ade20k/uper_convnext_tiny" else None
    plain = InferenceOptions.from_config(config(recipe))
    assert (plain.window, plain.stride, plain.scales, plain.flip) == (windows, windows and (341, 341), (), False)
    augmented = InferenceOptions.from_config(config(recipe, "TEST.AUG.ENABLED", "True"))
    facts = ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), True, "softmax", windows)
    assert (augmented.scales, augmented.flip, augmented.combine, augmented.window) == facts


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_can_be_started_on_one_accelerator_and_on_eight(recipe):
    cfg = config(recipe)
    check_schedule(cfg)
    assert micro_batch_size(cfg, world_size=8) * 8 == cfg.SOLVER.IMS_PER_BATCH
    assert micro_batch_size(config(recipe, "SOLVER.ACCUMULATE", "4"), world_size=1) * 4 == cfg.SOLVER.IMS_PER_BATCH


REDUCED = {
    **TOY_STEP,
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.PRETRAINED": False,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 8,
    "MODEL.AUX_HEAD.CONVS_DIM": 8,
    "MODEL.SCALE_EQUALIZER.NUM_IMAGES": 2,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.AMP.DTYPE": "bfloat16",  # float16 is for accelerators
}


def _steps():
    """Every recipe, plain and equalized; each backbone once either way, all sets among them, and the others as slow."""
    for index, recipe in enumerate(RECIPES):
        data_set, backbone = divmod(index, len(BACKBONES))
        for equalizer, name in (("", "plain"), ("+scale_equalizer", "equalized")):
            quick = data_set == (backbone + bool(equalizer)) % len(SETS)
            yield pytest.param(recipe, equalizer, id=f"{recipe}-{name}", marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("recipe, equalizer", _steps())
def test_one_training_step(recipe, equalizer, tmp_path):
    options = REDUCED | {"OUTPUT_DIR": str(tmp_path)}
    trainer = OneStep(config(recipe + equalizer, *(word for pair in options.items() for word in pair)))
    groups = {(round(g["initial_lr"], 12), g["weight_decay"]) for g in trainer.optimizer.param_groups}
    assert groups == GROUPS[recipe.partition("uper_")[2]]
    model = trainer.model
    watched = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if is_watched(name)}
    assert len(watched) >= 3
    trainer.train()
    assert {"loss_sem_seg", "total_loss"} <= trainer.storage.latest().keys()
    require_calibrated(model)
    parameters = dict(model.named_parameters())
    assert all(parameter.grad is not None and parameter.isfinite().all() for parameter in parameters.values())
    assert [name for name, value in watched.items() if torch.equal(value, parameters[name])] == []


def is_watched(name: str) -> bool:
    """Weights that every step changes; those of a block may stay where stochastic depth drops it for both samples."""
    return name.endswith("weight") and any(
        part in name for part in ("classifier", "level_norms", "body.stem_0", "patch_embed", "body.conv1.0")
    )
