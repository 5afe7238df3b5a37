"""The command itself, as users type it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaleeq import engine

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
    refused = run("--eval-only", OUTPUT_DIR=tmp_path, **{"DATASETS.TEST": ("toy_sem_seg_val",)})
    assert refused.returncode != 0
    assert "MODEL.WEIGHTS" in refused.stderr
    assert (tmp_path / "config.yaml").is_file()
    assert f"Engine: {engine.NAME}" in (tmp_path / "log.txt").read_text()
