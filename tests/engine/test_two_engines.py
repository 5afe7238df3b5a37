"""The same small training under both engines: equal losses, interchangeable checkpoints, equal metric keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaleeq.engine import is_detectron2_installed

ROOT = Path(__file__).parents[2]
ENGINES = ("standalone", "detectron2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not is_detectron2_installed(),
        reason="Detectron2 is not installed: there is one engine only, nothing to compare",
    ),
]


def run_both(folder, task, weights):
    """engine -> what two_engines_run prints; both run at the same time. weights: engine -> file, "" for none."""
    processes = {}
    for engine in ENGINES:
        environment = {**os.environ, "SCALEEQ_ENGINE": engine, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "projects" / "ScaleEq"), str(ROOT)])
        words = ["-m", "tests.engine.two_engines_run", task, str(folder / f"{task}_{engine}"), weights[engine]]
        processes[engine] = subprocess.Popen(
            [sys.executable, *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    results = {}
    for engine, process in processes.items():
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, f"{engine}: {output}{errors}"
        results[engine] = json.loads(output.splitlines()[-1])
        assert results[engine]["engine"] == engine
    return results


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_engines")
    return folder, run_both(folder, "train", dict.fromkeys(ENGINES, ""))


def test_same_parameters_and_metrics(trained):
    _, runs = trained
    assert runs["standalone"]["names"] == runs["detectron2"]["names"]
    assert runs["standalone"]["results"]["sem_seg"].keys() == runs["detectron2"]["results"]["sem_seg"].keys()


def test_same_losses(trained):
    _, runs = trained
    assert len(runs["standalone"]["losses"]) == 3
    for ours, theirs in zip(runs["standalone"]["losses"], runs["detectron2"]["losses"], strict=True):
        assert "loss_sem_seg" in ours
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_same_metric_file_and_config(trained):
    folder, _ = trained
    files = {engine: folder / f"train_{engine}" / "metrics.json" for engine in ENGINES}
    lines = {engine: [json.loads(line) for line in file.read_text().splitlines()] for engine, file in files.items()}
    assert [line.keys() for line in lines["standalone"]] == [line.keys() for line in lines["detectron2"]]
    names = {engine: {path.name for path in files[engine].parent.glob("model*")} for engine in ENGINES}
    assert names["standalone"] == names["detectron2"]


def test_each_evaluates_the_other_s_checkpoint_to_the_same_number(trained):
    folder, runs = trained
    others = {"standalone": "detectron2", "detectron2": "standalone"}
    weights = {engine: str(folder / f"train_{other}" / "model_final.pth") for engine, other in others.items()}
    evaluated = run_both(folder, "evaluate", weights)
    for engine, other in others.items():
        assert evaluated[engine]["results"] == runs[other]["results"]
