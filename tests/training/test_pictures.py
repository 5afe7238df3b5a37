"""The pictures of a run: colours by table, series by file content, files that are images."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from scaleeq.training import Trainer
from scaleeq.training.pictures import branch_scales, colorize, plot_branch_scales, plot_predictions

from .tiny import tiny_config


def test_colorize_closed_form():
    labels = np.array([[0, 1], [255, 1]], dtype=np.uint8)
    picture = colorize(labels, [(1, 2, 3), (4, 5, 6)], 255)
    assert picture.tolist() == [[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [4, 5, 6]]]


CALIBRATED = {"fusions": {"head": {"branches": {"p2": {"std": 0.5}, "p3": {"std": 0.4}}}}}
TRAINED = {"head": {"branches": {"p2": {"std": 0.6, "std_equalized": 1.2}, "p3": {"std": 0.5, "std_equalized": 1.25}}}}


def test_series_follow_the_file():
    assert branch_scales(CALIBRATED) == {
        "head": {"before, at calibration": {"p2": 0.5, "p3": 0.4}, "after, at calibration": {"p2": 1.0, "p3": 1.0}}
    }
    both = branch_scales({**CALIBRATED, "at_end": {"fusions": TRAINED}})["head"]
    assert both["before, trained"] == {"p2": 0.6, "p3": 0.5}
    assert both["after, trained"] == {"p2": 1.2, "p3": 1.25}
    plain = {"head": {"branches": {"p2": {"std": 0.6}}}}  # of a model without equalizers
    assert branch_scales({"at_end": {"fusions": plain}}) == {"head": {"before, trained": {"p2": 0.6}}}


def test_pictures_are_written(tmp_path):
    plot_branch_scales({**CALIBRATED, "at_end": {"fusions": TRAINED}}, tmp_path / "scales.png")
    cfg = tiny_config(tmp_path)
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, tmp_path / "model.pth")
    plot_predictions(cfg, str(tmp_path / "model.pth"), tmp_path / "predictions.png", num_images=2)
    for name in ("scales.png", "predictions.png"):
        colours = np.unique(np.asarray(Image.open(tmp_path / name).convert("RGB")).reshape(-1, 3), axis=0)
        assert len(colours) > 20
