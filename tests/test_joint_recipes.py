"""The recipes of several tasks on NYUD-v2 and PASCAL-Context: their facts as literal numbers, one step of each.

Oracle of the facts: the weights of losses, tolerances and lengths that the literature on them shares (MTI-Net, ATRC,
InvPT), read by hand. The step is on crops of 64 pixels of toy 3-D scenes; backbones are at full width and depth.
"""

from __future__ import annotations

import pytest

from scaleeq.engine import MetadataCatalog, load_config
from scaleeq.equalization.calibration import fusions_of, require_calibrated
from tests.test_recipes import REDUCED
from tests.training.tiny import OneStep

SETS = {
    "nyud_mt": ({"sem_seg": 1, "depth": 1, "normals": 10, "edges": 50}, 40, [448, 576], 0.011),
    "pascal_mt": ({"sem_seg": 1, "human_parts": 2, "saliency": 5, "normals": 10, "edges": 50}, 21, [512, 512], 0.0075),
}
RECIPES = ("fcn_hrnet18", "uper_r50", "uper_swin_tiny")
OPTIMIZERS = {"fcn_hrnet18": ("SGD", 0.01), "uper_r50": ("SGD", 0.01), "uper_swin_tiny": ("ADAMW", 6e-5)}
ON_TOY = REDUCED | {
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 5,
    "DATASETS.TRAIN": ("toy3d_train",),
    "DATASETS.TEST": ("toy3d_val",),
}
QUICK = ("nyud_mt/fcn_hrnet18", "pascal_mt/fcn_hrnet18+scale_equalizer")


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("of_set", SETS)
def test_facts(of_set, recipe):
    cfg = load_config(f"{of_set}/{recipe}")
    weights, classes, crop, tolerance = SETS[of_set]
    tasks = cfg.MODEL.TASKS
    assert dict(zip(tasks.NAMES, tasks.WEIGHTS, strict=True)) == weights
    assert (tasks.SHARE, tasks.WEIGHTING, list(cfg.MODEL.AUX_HEAD.IN_FEATURES)) == ("pyramid", "fixed", [])
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == classes == len(MetadataCatalog.get(cfg.DATASETS.TEST[0]).stuff_classes)
    assert (list(cfg.INPUT.CROP.SIZE), cfg.TEST.EDGES.MAX_DISTANCE) == (crop, tolerance)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.TEST.DEPTH.CROP, cfg.TEST.DEPTH.MAX) == (8, 40000, "", 0)
    assert OPTIMIZERS[recipe] == (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR)
    assert not cfg.MODEL.SCALE_EQUALIZER.ENABLED
    assert load_config(f"{of_set}/{recipe}+scale_equalizer").MODEL.SCALE_EQUALIZER.ENABLED


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for of_set in SETS
        for recipe in RECIPES
        for name in (f"{of_set}/{recipe}", f"{of_set}/{recipe}+scale_equalizer")
    ],
)
def test_one_training_step(name, tmp_path):
    options = ON_TOY | {"OUTPUT_DIR": str(tmp_path)}
    trainer = OneStep(load_config(name, [word for pair in options.items() for word in pair]))
    trainer.train()
    weights = SETS[name.split("/")[0]][0]
    losses = {each for each in trainer.storage.latest() if each.startswith("loss_")}
    assert losses == {f"loss_{task}" for task in weights}
    require_calibrated(trainer.model)
    parameters = dict(trainer.model.named_parameters())
    assert all(value.grad is not None and value.grad.isfinite().all() for value in parameters.values())
    fusions = fusions_of(trainer.model, equalized=False)
    shared = [fusion for fusion in fusions if fusion.startswith("decoders.shared.")]
    assert bool(shared) == ("uper" in name) and len(fusions) >= len(weights)
