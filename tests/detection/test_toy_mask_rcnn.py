"""toy/mask_rcnn as a user runs it, to an AP; and the same objects under Detectron2's Mask R-CNN. Both take minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaleeq import engine

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "toy_detection.json"
MARGIN = 10.0  # AP50 below the worst of the recorded seeds


def run(*words: str, **environment: str) -> None:
    path = f"{ROOT / 'projects' / 'ScaleEq'}:{ROOT}"
    subprocess.run(
        [sys.executable, *words], env={**os.environ, "PYTHONPATH": path, **environment}, cwd=ROOT, check=True
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_box_ap50_is_not_far_below_what_was_recorded(tmp_path):
    seeds = json.loads(RESULTS.read_text())["variants"]["fpn"]["runs"]
    recorded = [run["value"] for run in seeds.values()]
    assert len(recorded) >= 3
    run("-m", "scaleeq", "train", "toy/mask_rcnn", "OUTPUT_DIR", str(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    last = [line for line in lines if "bbox/AP50" in line][-1]
    assert last["bbox/AP50"] > min(recorded) - MARGIN


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(engine.NAME != "detectron2", reason="the DefaultTrainer of the real Detectron2")
def test_the_same_objects_under_detectron2(tmp_path):
    short = ["SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "0", "SOLVER.STEPS", "()", "MODEL.DEVICE", "cpu"]
    words = [
        "tools/train_detection.py",
        "--config-file",
        "toy/detectron2_mask_rcnn",
        *short,
        "OUTPUT_DIR",
        str(tmp_path),
    ]
    run(*words, SCALEEQ_ENGINE="detectron2")
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert "loss_mask" in lines[0]
    assert "segm/AP-sphere" in lines[-1]
