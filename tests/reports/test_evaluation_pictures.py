"""The confusion matrix and the branches' scales that a training shows. Oracles: counts of pixels of known colours."""

from __future__ import annotations

import json

import numpy as np

from scaleeq.pictures import confusion_picture
from scaleeq.reports.pictures.evaluation import evaluation_sheets
from scaleeq.reports.scales_drawing import latest_scales
from scaleeq.training.testing import Evaluation
from tests.training.tiny import TEST_SET, tiny_config


def test_a_training_shows_confusion_and_scales_too(tmp_path):
    cfg = tiny_config(tmp_path)
    branches = {name: {"std": std, "std_equalized": 1.0} for name, std in (("p2", 0.5), ("p3", 4.0))}
    records = [{"iteration": n, "fusions": {"head": {"branches": branches}}} for n in (0, 40)]
    (tmp_path / "scale_statistics.json").write_text(json.dumps({"at_start": records[0], "history": records}))
    matrix = np.eye(8, dtype=np.int64) * 5
    matrix[3] = 0
    drawn = evaluation_sheets(Evaluation(cfg, confusions={TEST_SET: matrix}))
    assert list(drawn) == [f"confusion/{TEST_SET}", "scales"]
    pixels = drawn[f"confusion/{TEST_SET}"].astype(int)
    colors = ((253, 231, 37), (68, 1, 84), (128, 128, 128))
    bright, dark, grey = (int((abs(pixels - color).max(axis=-1) < 3).sum()) for color in colors)
    assert 5 * bright < dark < 9 * bright and 0.8 * bright < grey < 1.5 * bright, "7 cells, 49 others, a row of 8"
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in drawn.values())
    assert list(latest_scales({"at_start": records[0], "history": records})["head"])[-1] == "after, iteration 40"
    once = latest_scales({"at_start": records[0], "history": records[:1]})["head"]
    assert list(once) == ["before, first iteration", "after, first iteration"], "not the same twice"


def test_the_plain_picture_of_a_confusion_matrix():
    picture = confusion_picture(np.array([[3, 1], [0, 0]]), side=4)
    assert picture.shape == (4, 4, 3) and (picture[2:] == 128).all(), "a class without a pixel is grey"
    assert picture[0, 0].sum() > picture[0, 3].sum()
