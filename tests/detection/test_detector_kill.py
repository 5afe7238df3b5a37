"""toy/mask_rcnn killed in the middle, plain and equalized: it ends as a run that was never killed, to the bit."""

from __future__ import annotations

import json

import pytest

from tests.training.killed_once import ITERATIONS, check_killed_once

OPTIONS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.TIMM.NAME": "test_resnet",
    "MODEL.PYRAMID.CHANNELS": 16,
    "MODEL.DETECTOR.BOX_DIM": 32,
    "MODEL.DETECTOR.MASK_DIM": 16,
    "MODEL.DETECTOR.REGIONS_PER_IMAGE": 16,
    "MODEL.SCALE_EQUALIZER.NUM_IMAGES": 4,
    "DATALOADER.NUM_WORKERS": 1,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.EMA_DECAY": 0.9,
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.KEEP_CHECKPOINTS": 2,
    "TEST.EXPECTED_RESULTS": [],
}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("config", ["toy/mask_rcnn", "toy/mask_rcnn+fapn+scale_equalizer"])
def test_a_killed_detector_ends_as_an_unbroken_one(tmp_path, monkeypatch, config):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = check_killed_once(tmp_path, config, OPTIONS)
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert 0 <= lines[-1]["bbox/AP50"] <= 100
