"""A run that is killed, at whatever moment, ends as one that was never killed: the same bits in every file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scaleeq.training import Trainer

from .kill_check import Part, damage, differences, metric_differences, unequal, whole_lines
from .kill_moments import last_tag, phase_of, start_of
from .kill_run import ITERATIONS, ROOT, Attempt, arguments, write_scenes
from .tiny import tiny_config


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    write_scenes(tmp_path / "datasets")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def finished(attempt: Attempt, timeout_s: float = 120.0) -> int:
    """Its exit status; killed where it takes longer."""
    while not attempt.ended():
        if attempt.seconds > timeout_s:
            attempt.kill()
        time.sleep(0.01)
    assert attempt.status is not None
    return attempt.status


def command(folder, *options):
    """`python tools/train_net.py ... --resume`, in `folder`."""
    folder.mkdir(exist_ok=True)
    return Attempt(folder / "run", [*arguments(folder / "run"), *options], watched=False)


@pytest.mark.slow
def test_a_killed_command_ends_as_an_unbroken_one(tmp_path, scenes):
    unbroken = command(tmp_path / "unbroken")
    attempt = command(tmp_path / "killed")
    while not attempt.ended() and not last_tag(attempt.output_dir):
        time.sleep(0.001)
    time.sleep(0.05)
    assert attempt.kill(), f"it ended before the kill with {attempt.status}"
    assert attempt.status == -signal.SIGKILL and phase_of(attempt) != "start-up"
    assert not damage(attempt.output_dir)
    parts = [Part(0, whole_lines(attempt.output_dir))]
    resumed = command(tmp_path / "killed")
    assert finished(resumed) == finished(unbroken) == 0, (tmp_path / "killed" / "console.txt").read_text()[-3000:]
    start = start_of(resumed.log())
    assert start is not None and 0 < start < ITERATIONS
    parts.append(Part(start, whole_lines(resumed.output_dir)))
    assert not differences(unbroken.output_dir, resumed.output_dir)
    assert not metric_differences(unbroken.output_dir, resumed.output_dir, parts, steps={})


def test_a_run_resumed_at_its_end_has_the_same_end(tmp_path):
    """After a kill behind the last step: model_final, the last evaluation and the last record are made up for."""
    changes = {"MODEL__TIMM__NAME": "test_resnet", "MODEL__SCALE_EQUALIZER__ENABLED": True}
    cfg = tiny_config(tmp_path / "run", SOLVER__EMA_DECAY=0.9, SOLVER__CHECKPOINT_PERIOD=3, **changes)
    trainer = Trainer(cfg)
    results = trainer.train()
    folder = Path(cfg.OUTPUT_DIR)
    shutil.copytree(folder, tmp_path / "unbroken")
    for name in ("model_final.pth", "model_best.json", "model_best.pth"):
        (folder / name).unlink()
    (folder / "last_checkpoint").write_text("model_0000002.pth")
    statistics = json.loads((folder / "scale_statistics.json").read_text())
    assert statistics.pop("at_end")["iteration"] == 2
    (folder / "scale_statistics.json").write_text(json.dumps(statistics))
    again = Trainer(cfg)
    again.resume_or_load(resume=True)
    assert not [*unequal(results, again.train())]
    assert again.iter == trainer.iter == cfg.SOLVER.MAX_ITER
    assert not differences(tmp_path / "unbroken", folder)


def test_the_comparison_sees_a_single_bit():
    """The oracle itself: what it must tell apart, and what it must not."""
    weights = {"model": {"w": torch.tensor([0.0, float("nan")])}, "iteration": 1, "scaler": {}}
    assert not [*unequal(weights, {"model": {"w": torch.tensor([0.0, float("nan")])}, "iteration": 1, "scaler": {}})]
    for other in (
        {**weights, "model": {"w": torch.tensor([-0.0, float("nan")])}},
        {**weights, "model": {"w": torch.tensor([0.0, float("nan")], dtype=torch.float64)}},
        {**weights, "iteration": 1.0},
        {**weights, "ema": {}},
    ):
        assert [*unequal(weights, other)]


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("kills", "options"),
    [
        (100, ()),
        (6, ("--variant", "two processes")),
        (40, ("--signals",)),
        (6, ("--signals", "--variant", "two processes")),
    ],
)
def test_no_run_is_lost_in_a_campaign(tmp_path, kills, options):
    report = tmp_path / "report.json"
    words = ["--kills", str(kills), "--output", str(report), "--folder", str(tmp_path / "runs"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.training.kill_campaign", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1400,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    content = json.loads(report.read_text())
    assert content["kills"] == len(content["log"]) == kills and content["lost_runs"] == 0
    if kills == 100:
        assert all(content["kills_by_phase"][phase] for phase in ("calibration", "step", "evaluation"))
