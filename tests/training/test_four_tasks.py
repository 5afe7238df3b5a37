"""toy/multitask killed in the middle: it ends as a run that was never killed, to the bit. Oracle: the unbroken run."""

from __future__ import annotations

import json

import pytest

from .killed_once import ITERATIONS, check_killed_once

OPTIONS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.NAME": "test_resnet",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 8,
    "MODEL.SEM_SEG_HEAD.DROPOUT": 0.3,
    "MODEL.PYRAMID.CHANNELS": 8,
    "MODEL.SCALE_EQUALIZER.ENABLED": True,
    "MODEL.SCALE_EQUALIZER.SCOPE": "all",
    "MODEL.SCALE_EQUALIZER.NUM_IMAGES": 8,
    "MODEL.SCALE_EQUALIZER.STATISTICS_PERIOD": 2,
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "absolute",
    "INPUT.CROP.SIZE": [64, 64],
    "DATALOADER.NUM_WORKERS": 1,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.ACCUMULATE": 2,
    "SOLVER.EMA_DECAY": 0.9,
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.KEEP_CHECKPOINTS": 2,
    "TEST.EVAL_PERIOD": 3,
    "TEST.EDGES.MATCH": False,
    "TEST.BEST_METRIC": "normals/mean",
}
VARIANTS = {
    "plain": {},
    "interacting": {
        "MODEL.TASKS.INTERACTION": "pad_net",
        "MODEL.TASKS.WEIGHTING": "uncertainty",
        "MODEL.TASKS.WEIGHTS": [],
    },
}

pytestmark = pytest.mark.slow  # processes


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_killed_run_of_four_tasks_ends_as_an_unbroken_one(tmp_path, monkeypatch, variant):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = check_killed_once(tmp_path, "toy/multitask", OPTIONS | VARIANTS[variant])
    best = json.loads((run / "model_best.json").read_text())
    assert best["metric"] == "normals/mean" and 0 < best["value"] < 180
