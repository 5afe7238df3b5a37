"""What commands do with a detector: predict draws it, eval prints its AP, benchmark and export refuse it."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from PIL import Image

from scaleeq.commands import benchmark, export, predict
from scaleeq.engine import load_config
from scaleeq.pictures import draw_objects, draw_segments
from scaleeq.training import Trainer, evaluate_only
from scaleeq.training.examples import draw_panoptic
from tests.detection.tiny import TEST_SET, tiny_config

IMAGE = np.full((40, 60, 3), 100, np.uint8)


def test_objects_are_drawn_in_the_colours_of_their_classes():
    masks = np.zeros((2, 40, 60))
    masks[0, 10:30, 10:30] = 1
    boxes = np.array([[10, 10, 30, 30], [35.2, 5.1, 55, 38]])
    picture = draw_objects(IMAGE, boxes=boxes, labels=np.array([0, 1]), masks=masks, names=["cat"])
    assert (IMAGE == 100).all(), "the image is not changed"
    red, green = picture[29, 20], picture[37, 45]
    assert red.tolist() == [128, 0, 0]
    assert green.tolist() == [0, 128, 0]
    inside, outside = picture[25, 20].tolist(), picture[35, 3].tolist()
    assert inside[0] > inside[1] and outside == [100] * 3
    nothing = draw_objects(IMAGE, boxes=np.zeros((0, 4)), labels=np.zeros(0))
    assert np.array_equal(nothing, IMAGE)


def test_segments_have_borders_and_things_of_a_class_different_shades():
    ids = np.zeros((40, 60), np.int32)
    ids[:20, :30], ids[:20, 30:], ids[25:] = 1, 2, 3
    segments = [{"id": n, "category_id": int(n == 3), "isthing": n < 3} for n in (1, 2, 3)]
    picture = draw_panoptic(IMAGE, ids, segments)
    first, second, third, void = (picture[row, column].tolist() for row, column in ((5, 5), (5, 50), (35, 5), (22, 5)))
    assert first[0] > second[0] > first[1]
    assert third[1] > third[0]
    assert void == [40, 40, 40]
    assert picture[20, 5].tolist() == picture[5, 30].tolist() == [255] * 3
    assert draw_segments(IMAGE, ids, {}).shape == IMAGE.shape


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the panoptic model of two steps: config.yaml and model_final.pth."""
    folder = tmp_path_factory.mktemp("run")
    changes = {"MODEL__SEM_SEG_HEAD__CONVS_DIM": 8, "MODEL__DETECTOR__SCORE_THRESH": 0.0}
    cfg = tiny_config(folder, "toy/panoptic", SOLVER__MAX_ITER=2, DATASETS__TEST=[], **changes)
    trainer = Trainer(cfg)
    trainer.resume_or_load()
    trainer.train()
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


def call(command, *words: str) -> int:
    return command.run(command.parse(command.parser(), list(words))) or 0


def test_predict_draws_boxes_maps_and_panoptic_segments(run, tmp_path):
    words = [str(run / "config.yaml"), "--weights", str(run / "model_final.pth"), "--dataset", TEST_SET, "--num", "1"]
    assert call(predict, *words, "--output", str(tmp_path / "of_set")) == 0
    (sheet,) = (tmp_path / "of_set" / "sheets").rglob("*.png")
    with_truth = Image.open(sheet).size
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)).save(tmp_path / "photo.png")
    words = [str(run / "config.yaml"), "--weights", str(run / "model_final.pth"), str(tmp_path / "photo.png")]
    assert call(predict, *words, "--output", str(tmp_path / "of_photo")) == 0
    (sheet,) = (tmp_path / "of_photo" / "sheets").glob("*.png")
    assert Image.open(sheet).size != with_truth


def test_eval_prints_the_table(run, tmp_path, caplog):
    keys = {"MODEL.WEIGHTS": str(run / "model_final.pth"), "DATASETS.TEST": [TEST_SET], "OUTPUT_DIR": str(tmp_path)}
    with caplog.at_level(logging.INFO):
        evaluate_only(load_config(run / "config.yaml", [word for pair in keys.items() for word in pair]))
    text = caplog.text
    assert all(name in text for name in ("AP50", "AP75", "APs", "segm", "AP-sphere", "PQ", "things", "stuff"))
    results = json.loads((tmp_path / "inference" / "results.json").read_text())
    assert results["multiply_adds"] > 0
    assert {"bbox", "segm", "panoptic_seg", "sem_seg", "depth"} <= results.keys()


@pytest.mark.parametrize(("command", "words", "message"), [
    (benchmark, ["toy/mask_rcnn", "--count"], "`scaleeq eval` writes its parameters"),
    (export, ["toy/panoptic", "-o", "a.onnx"], "a detector finds as many objects as there are"),
])  # fmt: skip
def test_what_is_not_for_detectors(command, words, message):
    with pytest.raises(ValueError, match=message):
        call(command, *words)
