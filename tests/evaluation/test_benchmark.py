"""The benchmark: its maps are as it says, every contender counts, absent peers are named, and its table is complete."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from scaleeq.evaluation import benchmark
from scaleeq.evaluation.benchmark import benchmark_table, label_pair, memory_growth, time_counting
from scaleeq.evaluation.benchmark_peer import MMSEGMENTATION


def test_maps_are_like_real_ones():
    """Void, classes in an image, and mean runs along rows as in the truths of ADE20K and CamVid."""
    rng = np.random.default_rng(0)
    for noise in (False, True):
        prediction, truth = label_pair(rng, 512, 683, 150, noise=noise)
        assert prediction.dtype == truth.dtype == np.uint8 and prediction.shape == truth.shape == (512, 683)
        assert prediction.max() < 150 and 0.02 < (truth == 255).mean() < 0.2
        assert 14 <= len(np.unique(truth[truth != 255])) <= 20
        assert 40 < truth.size / (512 + (truth[:, 1:] != truth[:, :-1]).sum()) < 60
    assert (prediction == truth).mean() < 0.02


def test_every_installed_contender_is_timed(monkeypatch):
    monkeypatch.setattr(benchmark, "SIZES", {"tiny": (40, 130, 19)})
    rows = time_counting(images=2, rounds=1, threads=[1])
    installed = {row["contender"]: row["images_per_s_wall"] is not None for row in rows}
    assert installed[benchmark.OURS] and installed[benchmark.COPY] and not installed[MMSEGMENTATION]
    for name, package in (("Detectron2, SemSegEvaluator.process", "detectron2"), ("torchmetrics", "torchmetrics")):
        (key,) = (contender for contender in installed if contender.startswith(name))
        assert installed[key] == (importlib.util.find_spec(package) is not None)
    table = benchmark_table(rows)
    assert "not installed" in table and all(row["contender"] in table for row in rows)
    assert [row["times_ours_cpu"] for row in rows if row["contender"] == benchmark.OURS] == [1.0]


def test_an_interpreter_without_the_peer_is_refused(monkeypatch, tmp_path):
    if importlib.util.find_spec("mmseg"):
        pytest.skip("this interpreter has mmsegmentation")
    np.save(tmp_path / "predictions.npy", np.zeros((1, 4, 4), np.uint8))
    np.save(tmp_path / "truths.npy", np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="--peer-python cannot count with mmsegmentation"):
        benchmark.OtherInterpreter(sys.executable, tmp_path, 2)


def test_memory_is_flat():
    memory = memory_growth(260)
    assert memory["images"] == [200, 260] and memory["growth_mb"] == memory["peak_mb"][1] - memory["peak_mb"][0] < 5
