"""The pictures of a run: colours by table, series by file content, files that are images."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from scaleeq.pictures import colorize
from scaleeq.reports.pictures.finished_run import branch_scales, plot_branch_scales, plot_predictions
from scaleeq.training import Trainer
from tests.training.tiny import tiny_config


def test_colorize_closed_form():
    labels = np.array([[0, 1], [255, 1]], dtype=np.uint8)
    picture = colorize(labels, [(1, 2, 3), (4, 5, 6)], 255)
    assert picture.tolist() == [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [4, 5, 6]]]


def record(p2: float, p3: float, std: float | None) -> dict:
    """Branches of one fusion; `std` is what its equalizers divide by, None: it has none."""
    branches = {name: {"std": value} for name, value in (("p2", p2), ("p3", p3))}
    if std is not None:
        for branch in branches.values():
            branch["std_equalized"] = branch["std"] / std
    return {"fusions": {"head": {"branches": branches}}}


STATISTICS = {"at_start": record(0.5, 0.4, 0.5), "at_end": record(0.6, 0.5, 0.5)}


def test_series_follow_the_file():
    assert branch_scales(STATISTICS) == {
        "head": {
            "before, first iteration": {"p2": 0.5, "p3": 0.4},
            "after, first iteration": {"p2": 1.0, "p3": 0.8},
            "before, last iteration": {"p2": 0.6, "p3": 0.5},
            "after, last iteration": {"p2": 1.2, "p3": 1.0},
        }
    }
    plain = {"at_end": record(0.6, 0.5, None)}  # of a model without equalizers, resumed
    assert branch_scales(plain) == {"head": {"before, last iteration": {"p2": 0.6, "p3": 0.5}}}


def test_pictures_are_written(tmp_path):
    plot_branch_scales(STATISTICS, tmp_path / "scales.png")
    cfg = tiny_config(tmp_path)
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, tmp_path / "model.pth")
    plot_predictions(cfg, str(tmp_path / "model.pth"), tmp_path / "predictions.png", num_images=2)
    for name in ("scales.png", "predictions.png"):
        colours = np.unique(np.asarray(Image.open(tmp_path / name).convert("RGB")).reshape(-1, 3), axis=0)
        assert len(colours) > 20
