"""The benchmark of accelerate: ratios of models, a word for those that are not there, and what a file keeps."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from evidence import benchmark_accelerate, speed_tables
from tests.rewrites.nets import Net


def absent() -> nn.Module:
    raise ImportError("nowhere is not installed")


MODELS = {"nowhere UperNet": absent, "small": lambda: Net().float(), "convolution": lambda: nn.Conv2d(3, 4, 3)}


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["benchmark_accelerate", *words])
    benchmark_accelerate.main()


def test_models_are_measured_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark_accelerate, "MODELS", MODELS)
    monkeypatch.setattr(speed_tables, "MODELS", MODELS)
    monkeypatch.setattr(speed_tables, "RESULTS", tmp_path)
    file = tmp_path / "accelerate.json"
    run(monkeypatch, "--size", "16", "--rounds", "2", "--models", "small", "nowhere UperNet", "--output", str(file))
    run(monkeypatch, "--size", "32", "--rounds", "1", "--batch", "1", "--kinds", "inference", "--output", str(file))
    first, second = json.loads(file.read_text())["runs"]
    assert list(first["models"]) == ["nowhere UperNet", "small"] and list(second["models"]) == list(MODELS)
    small, absent_one, conv = (
        first["models"]["small"],
        first["models"]["nowhere UperNet"],
        second["models"]["convolution"],
    )
    assert small["training_cpu_ratio_quartiles"] == sorted(small["training_cpu_ratio_quartiles"])
    assert small["difference"] < 1e-5 and str(tmp_path) not in small["command"]
    assert absent_one == {"skipped": "nowhere is not installed"}
    assert conv["fusions"] == 0 and conv["difference"] == 0 and "training_cpu_ratio_quartiles" not in conv
    table = speed_tables.accelerate_table()
    assert table.count("nowhere is not installed") == 2 and "32 x 32, batch 1" in table


def test_one_image_is_not_trained_on(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--batch", "1")
    assert stopped.value.code == 2 and "--kinds inference" in capsys.readouterr().err


def test_another_output_is_refused():
    plain, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match="output differs by"):
        benchmark_accelerate._difference(plain, other, torch.ones(1, 3, 8, 8))
