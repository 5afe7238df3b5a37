"""Detectors in runs of our Trainer: resumed to the bit, with EMA and AMP, several tasks, two processes."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scaleeq.training import Trainer, evaluate_only
from tests.detection.tiny import tiny_config

ROOT = Path(__file__).resolve().parents[2]


def weights(folder: Path, name: str = "model_final.pth") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)["model"]


def train(cfg, *, resume: bool = False):
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


@pytest.mark.parametrize("overlay", ["", "+scale_equalizer"])
def test_a_resumed_run_is_equal_to_the_bit(overlay, tmp_path):
    name = f"toy/mask_rcnn{overlay}"
    train(tiny_config(tmp_path / "whole", name, SOLVER__CHECKPOINT_PERIOD=2, DATASETS__TEST=[]))
    (tmp_path / "half").mkdir()
    shutil.copy(tmp_path / "whole" / "model_0000001.pth", tmp_path / "half")
    (tmp_path / "half" / "last_checkpoint").write_text("model_0000001.pth")
    train(tiny_config(tmp_path / "half", name, SOLVER__CHECKPOINT_PERIOD=2, DATASETS__TEST=[]), resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "half")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert not all(torch.equal(whole[k], weights(tmp_path / "whole", "model_0000001.pth")[k]) for k in whole)


def test_evaluated_with_average_weights_and_bfloat16(tmp_path):
    cfg = tiny_config(tmp_path, SOLVER__EMA_DECAY=0.5, SOLVER__AMP__ENABLED=True)
    results = train(cfg)
    assert list(results) == ["bbox", "segm"]
    assert 0 <= results["bbox"]["AP"] <= 100
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    assert json.dumps(evaluate_only(cfg)) == json.dumps(results)  # as text, NaN is equal to itself
    written = json.loads((tmp_path / "inference" / "results.json").read_text())
    assert written["weights_kind"] == "ema"
    assert written["bbox"]["AP50"] == results["bbox"]["AP50"]


def test_boxes_labels_and_depth_in_one_checkpoint(tmp_path):
    """Of five losses and two maps; uncertainty weights each of the three tasks."""
    changes = {"MODEL__TASKS__WEIGHTS": [], "MODEL__TASKS__WEIGHTING": "uncertainty"}
    cfg = tiny_config(tmp_path, "toy/panoptic", MODEL__SEM_SEG_HEAD__CONVS_DIM=8, **changes)
    results = train(cfg)
    assert set(results) == {"bbox", "segm", "panoptic_seg", "sem_seg", "depth"}
    assert math.isfinite(results["panoptic_seg"]["PQ"])
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    written = {key for line in lines for key in line}
    assert {"loss_mask", "loss_sem_seg", "loss_depth", "panoptic_seg/PQ", "bbox/AP"} <= written
    parts = {".".join(key.split(".")[:2]) for key in weights(tmp_path)}
    assert {"decoders.sem_seg", "decoders.depth", "tasks.instances", "tasks.depth", "detector.rpn"} <= parts
    assert {f"tasks.{task}.log_variance" for task in ("instances", "sem_seg", "depth")} <= weights(tmp_path).keys()


def test_delta_m_over_three_headlines(tmp_path):
    single = tmp_path / "single.json"
    single.write_text(json.dumps({"bbox": {"AP": 50.0}, "sem_seg": {"mIoU": 50.0}, "depth": {"rmse": 1.0}}))
    changes = {"TEST__SINGLE_TASK_RESULTS": str(single), "TEST__BEST_METRIC": "bbox/AP50"}
    results = train(tiny_config(tmp_path / "run", "toy/panoptic", MODEL__SEM_SEG_HEAD__CONVS_DIM=8, **changes))
    rows = ((results["bbox"]["AP"], 50, 1), (results["sem_seg"]["mIoU"], 50, 1), (results["depth"]["rmse"], 1, -1))
    expected = 100 * sum(sign * (value - base) / base for value, base, sign in rows) / 3
    assert results["multi_task"]["delta_m"] == pytest.approx(expected)


def test_an_ap_that_no_run_can_have_is_refused_before_training(tmp_path):
    for row, message in (
        (["bbox", "AP50", 160, 1], r"AP50 is in \[0, 100\]"),
        (["bbox", "AP51", 6, 1], "choose one of AP, "),
    ):
        with pytest.raises(ValueError, match=message):
            Trainer(tiny_config(tmp_path, TEST__EXPECTED_RESULTS=[row]))


@pytest.mark.slow
def test_thirty_steps_lower_the_loss(tmp_path):
    changes = {"SOLVER__MAX_ITER": 30, "SOLVER__BASE_LR": 0.002, "DATASETS__TRAIN_FRACTION": 0.01}
    trainer = Trainer(tiny_config(tmp_path, DATASETS__TEST=[], **changes))
    trainer.resume_or_load()
    trainer.train()
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def test_batches_are_cut_and_weighted_in_full(tmp_path):
    """Two passes a step, the maps' losses over the pixels of both."""
    cfg = tiny_config(tmp_path, "toy/panoptic", SOLVER__ACCUMULATE=2, SOLVER__MAX_ITER=2, DATASETS__TEST=[])
    trainer = Trainer(cfg)
    trainer.resume_or_load()
    trainer.train()
    counts = trainer.step.plain_model.counts(next(iter(trainer.build_train_loader(cfg))))
    assert counts.keys() == {"sem_seg", "depth"}


@pytest.mark.slow
def test_two_processes_evaluate_and_train_as_one(tmp_path):
    """The same AP and PQ, to the last digit, of perturbed truths; and equal weights on both after two steps."""
    path = f"{ROOT / 'projects' / 'ScaleEq'}:{ROOT}"
    environment = {**os.environ, "PYTHONPATH": path, "SCALEEQ_ENGINE": "standalone"}
    commands = [[sys.executable, "-m", "tests.detection.two_processes", str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(command, env=environment, cwd=ROOT) for command in commands]
    assert [process.wait(timeout=200) for process in running] == [0, 0]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    assert first["alone"] == first["together"]
    assert 0 < first["alone"][0]["bbox"]["AP"] < 100
    assert 0 < first["alone"][1]["panoptic_seg"]["PQ"] < 100
    assert second["together"] == [None, None]
    assert first["weights"] == second["weights"]
