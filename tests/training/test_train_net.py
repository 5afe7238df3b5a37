"""The command itself, as users type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaleeq.engine import load_config

from .tiny import BASE, OPTIONS

ROOT = Path(__file__).parents[2]


def run(*arguments, **options):
    words = [str(word) for pair in {**OPTIONS, **options}.items() for word in pair]
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", str(BASE), *arguments, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_two_processes_train_and_one_repeats_their_number(tmp_path):
    options = {"OUTPUT_DIR": tmp_path, "MODEL.SCALE_EQUALIZER.ENABLED": True, "DATASETS.TEST": ("toy_sem_seg_val",)}
    port = 20000 + os.getpid() % 20000
    trained = run("--num-gpus", "2", "--dist-url", f"tcp://127.0.0.1:{port}", **options)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    miou = json.loads((tmp_path / "metrics.json").read_text().splitlines()[-1])["sem_seg/mIoU"]
    evaluated = run("--eval-only", "--resume", **options)
    assert evaluated.returncode == 0, evaluated.stdout + evaluated.stderr
    assert json.loads((tmp_path / "inference" / "results.json").read_text())["sem_seg"]["mIoU"] == miou


def test_a_mistake_is_told_and_the_exit_status_says_so(tmp_path):
    options = {"OUTPUT_DIR": tmp_path / "run", "DATASETS.TEST": ("toy_sem_seg_val",)}
    refused = run("--eval-only", **options)
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1), refused.stderr
    assert refused.stderr.startswith("error: ") and "MODEL.WEIGHTS" in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], ["--num-gpus", "2"]])
def test_a_mistake_is_told_once_by_any_number_of_processes(tmp_path, processes):
    options = {"OUTPUT_DIR": tmp_path / "run", "DATASETS.TEST": ("toy_sem_seg_val",), "SOLVER.IMS_PER_BATCH": 3}
    refused = run(*processes, "--debug", **options, **{"SOLVER.ACCUMULATE": 2})
    assert refused.returncode == 2 and not refused.stdout, refused.stderr
    assert refused.stderr.startswith("Traceback")
    assert refused.stderr.splitlines()[-1].startswith("error: SOLVER.IMS_PER_BATCH is")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_belongs_to_one_run(tmp_path):
    """Trained, refused, resumed at its end, evaluated, refused with another model; one process, to be quick."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'projects' / 'ScaleEq'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.training.one_folder", str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    outcome = json.loads((tmp_path / "outcome.json").read_text())

    assert "--resume" in outcome["fresh again"] and "model_final.pth" in outcome["fresh again"]
    assert "MODEL.SEM_SEG_HEAD.CONVS_DIM: 8 -> 16" in outcome["another model"]
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("SOLVER.BASE_LR: 0.002 -> 0.001") == 1
    assert log.count("Results verification passed") == 3  # trained, resumed, evaluated (one process, one log)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in metrics] == [2, 3, 3, 3]
    assert metrics[2] == {"iteration": 3, "resumed": True}
    assert metrics[1]["sem_seg/mIoU"] == metrics[3]["sem_seg/mIoU"]
    assert metrics[1]["validation/loss"] == metrics[3]["validation/loss"] > 0

    assert load_config(tmp_path / "run" / "config.yaml").INPUT.MIN_SIZE_TEST == 0  # of the training
    assert load_config(tmp_path / "run" / "inference" / "config.yaml").INPUT.MIN_SIZE_TEST == 64
    assert json.loads((tmp_path / "run" / "inference" / "results.json").read_text())["weights_kind"] == "trained"
