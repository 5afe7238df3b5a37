"""The pictures of a run: colours by table, series by file content, files that are images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from scaleeq.engine import MetadataCatalog
from scaleeq.pictures import VOID_COLOR, blend, colorize
from scaleeq.reports.pictures import Classes, Seen
from scaleeq.reports.pictures.evaluation import evaluation_sheets
from scaleeq.reports.pictures.finished_run import plot_predictions
from scaleeq.reports.pictures.sheets import overview_sheet
from scaleeq.reports.scales_drawing import branch_scales, plot_branch_scales
from scaleeq.training import Trainer
from scaleeq.training.testing import Evaluation
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


def test_an_overlay_shows_void_as_void():
    colors = [(10, 20, 30), (40, 50, 60)]
    drawn = blend(np.zeros((1, 3, 3), np.uint8), np.array([[0, 1, 255]], np.uint8), colors, opacity=1.0)
    assert [tuple(pixel) for pixel in drawn[0].tolist()] == [*colors, tuple(VOID_COLOR)]


def test_a_training_is_handed_the_sheet_of_its_examples(tmp_path):
    """Oracles: the sheet of the same arrays; a data set without colours and one without examples have none."""
    cfg = tiny_config(tmp_path)
    labels = np.zeros((20, 30), np.uint8)
    example = SimpleNamespace(
        file_name="a/b.png", image=np.zeros((20, 30, 3), np.uint8), prediction=labels, truth=labels, views={}
    )
    name = cfg.DATASETS.TEST[0]
    evaluation = Evaluation(cfg, examples={name: [example], cfg.DATASETS.TRAIN[0]: [], "a_strangers_set": [example]})
    sheets = evaluation_sheets(evaluation)
    assert list(sheets) == [f"predictions/{name}"]
    seen = {"b.png": Seen(example.image, labels, labels)}
    expected = overview_sheet(name, seen, Classes.of(MetadataCatalog.get(name)))
    np.testing.assert_array_equal(sheets[f"predictions/{name}"], expected)


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
    plot_branch_scales(STATISTICS, [tmp_path / name for name in ("scales.png", "scales.svg", "again.svg")])
    assert "<svg" in (tmp_path / "scales.svg").read_text()
    assert (tmp_path / "scales.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
    cfg = tiny_config(tmp_path)
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, tmp_path / "model.pth")
    plot_predictions(cfg, str(tmp_path / "model.pth"), tmp_path / "predictions.png", num_images=2)
    for name in ("scales.png", "predictions.png"):
        colours = np.unique(np.asarray(Image.open(tmp_path / name).convert("RGB")).reshape(-1, 3), axis=0)
        assert len(colours) > 20
