"""SemSegEvaluator: on the toy scenes, against Detectron2's evaluator, and over two processes."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scaleeq.data  # noqa: F401  (registers the toy scenes)
from scaleeq.data import read_labels, register_dataset
from scaleeq.data.sets import toy
from scaleeq.engine import DatasetCatalog, MetadataCatalog, inference_on_dataset
from scaleeq.evaluation import SemSegEvaluator, ValidationLossEvaluator
from scaleeq.evaluation.ade20k import ADE20KScore
from scaleeq.evaluation.boundary import boundary_parts
from scaleeq.evaluation.result_table import columns_by_class
from scaleeq.evaluation.sem_seg import add_counts

NAME = "toy_sem_seg_val"
CLASSES = len(toy.CLASSES)


def logits_of(prediction: np.ndarray, num_classes: int) -> torch.Tensor:
    """(K, H, W) logits whose largest is the prediction."""
    return torch.nn.functional.one_hot(torch.from_numpy(prediction).long(), num_classes).permute(2, 0, 1).float()


def guesses(index: int) -> tuple[dict, dict]:
    """A sample of a toy scene and a prediction that is right on about two of three pixels."""
    record = DatasetCatalog.get(NAME)[index]
    truth = read_labels(record)
    rng = np.random.default_rng(index)
    wrong = rng.integers(0, CLASSES, truth.shape, np.uint8)
    prediction = np.where((rng.random(truth.shape) < 0.6) & (truth != 255), truth, wrong)
    sample = {key: record[key] for key in ("file_name", "image_id", "height", "width")}
    return sample | {"sem_seg_truth": torch.from_numpy(truth)}, {"sem_seg": logits_of(prediction, CLASSES)}


def evaluator_with_parts() -> SemSegEvaluator:
    """With metrics that follow from the confusion matrix, and with metrics that count for themselves."""
    return SemSegEvaluator(NAME, parts=[ADE20KScore(), *boundary_parts(CLASSES)])


@pytest.mark.parametrize("evaluator_class", [SemSegEvaluator, ValidationLossEvaluator])
@pytest.mark.parametrize(
    ("place", "value"), [((1, 5, 7), math.nan), ((1, 5, 7), math.inf), ((slice(None), 5, 7), -math.inf)]
)
def test_scores_that_are_not_finite_are_refused_by_the_image_s_name(evaluator_class, place, value):
    sample, output = guesses(0)
    output["sem_seg"][place] = value
    with pytest.raises(FloatingPointError, match=rf"the prediction of {sample['file_name']} is not finite"):
        evaluator_class(NAME).process([sample], [output])


def test_a_masked_class_is_scored_as_never_predicted():
    sample, output = guesses(0)
    low, masked = output["sem_seg"].clone(), output["sem_seg"].clone()
    low[2], masked[2] = -1e9, -math.inf
    results = []
    for scores in (low, masked):
        evaluator = SemSegEvaluator(NAME)
        evaluator.process([sample], [{"sem_seg": scores}])
        results.append(evaluator.evaluate())
    assert repr(results[0]) == repr(results[1])


def test_perfect_predictions_score_100(tmp_path, caplog):
    caplog.set_level(logging.INFO, "scaleeq")
    evaluator = SemSegEvaluator(NAME, output_dir=str(tmp_path / "inference"))
    for index in range(20):
        sample, _ = guesses(index)
        truth = sample["sem_seg_truth"].numpy()
        evaluator.process([sample], [{"sem_seg": logits_of(np.where(truth == 255, 0, truth), CLASSES)}])
    results = evaluator.evaluate()
    assert list(results) == ["sem_seg"]
    names = ["mIoU", "fwIoU", "mACC", "pACC"] + [f"{kind}-{name}" for kind in ("IoU", "ACC") for name in toy.CLASSES]
    assert list(results["sem_seg"]) == names
    assert set(results["sem_seg"].values()) == {100.0}
    written = json.loads((tmp_path / "inference" / "sem_seg_evaluation.json").read_text())
    assert written["sem_seg"] == results["sem_seg"] and written["num_images"] == 20
    assert np.sum(written["confusion"]) == sum((guesses(i)[0]["sem_seg_truth"] != 255).sum().item() for i in range(20))
    assert os.listdir(tmp_path / "inference") == ["sem_seg_evaluation.json"], "nothing half written is left"
    assert "beetle" in caplog.text and "absent" in caplog.text


def test_metrics_by_numpy():
    evaluator = SemSegEvaluator(NAME)
    counts = np.zeros((CLASSES, CLASSES))
    for index in range(5):
        sample, output = guesses(index)
        evaluator.process([sample], [output])
        truth, prediction = sample["sem_seg_truth"].numpy(), output["sem_seg"].argmax(0).numpy()
        for label in range(CLASSES):
            counts[label] += np.bincount(prediction[truth == label], minlength=CLASSES)
    right, truth, prediction = np.diag(counts), counts.sum(1), counts.sum(0)
    iou = right / (truth + prediction - right)
    results = evaluator.evaluate()["sem_seg"]
    expected = {
        "mIoU": iou.mean(),
        "fwIoU": (iou * truth).sum() / truth.sum(),
        "mACC": (right / truth).mean(),
        "pACC": right.sum() / truth.sum(),
        "IoU-pole": iou[toy.POLE],
        "ACC-bee": (right / truth)[toy.BEE],
    }
    assert {name: results[name] for name in expected} == pytest.approx(
        {k: 100 * v for k, v in expected.items()}, rel=1e-12
    )


@pytest.fixture
def files_on_disk(tmp_path):
    """A data set of four label files whose truth has all of three classes, and void."""
    name, rng = "scaleeq_test_files", np.random.default_rng(0)
    records = []
    for index in range(4):
        file = tmp_path / f"{index}.png"
        Image.fromarray(rng.choice(np.array([0, 1, 2, 255], np.uint8), (20, 24))).save(file)
        records.append({"file_name": f"{index}.jpg", "sem_seg_file_name": str(file)})
    register_dataset(name, lambda: records, classes=["a", "b", "c"], colors=[(0, 0, 0)] * 3)
    yield name, records
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_equal_to_detectron2s_evaluator(files_on_disk):
    """All classes are in the truth; where one is not, the two differ by choice (see the module)."""
    evaluation = pytest.importorskip("detectron2.evaluation")
    data = pytest.importorskip("detectron2.data")
    name, records = files_on_disk
    theirs_name = name + "_for_detectron2"
    data.DatasetCatalog.register(theirs_name, lambda: records)
    data.MetadataCatalog.get(theirs_name).set(stuff_classes=["a", "b", "c"], ignore_label=255)
    try:
        ours = SemSegEvaluator(name, read_labels=read_labels)
        theirs = evaluation.SemSegEvaluator(theirs_name, distributed=False)
        theirs.reset()
        generator = torch.Generator().manual_seed(0)
        for record in records:
            output = [{"sem_seg": torch.randn(3, 20, 24, generator=generator)}]
            for evaluator in (ours, theirs):
                evaluator.process([{"file_name": record["file_name"]}], output)
        expected = {key: value for key, value in theirs.evaluate()["sem_seg"].items() if "BoundaryIoU" not in key}
    finally:
        data.DatasetCatalog.remove(theirs_name)
        data.MetadataCatalog.remove(theirs_name)
    results = ours.evaluate()["sem_seg"]
    common = set(results) & set(expected)
    assert {"mIoU", "fwIoU", "mACC", "pACC", "IoU-a", "ACC-c"} <= common
    assert {key: results[key] for key in common} == pytest.approx({key: expected[key] for key in common}, rel=1e-12)


def test_absent_classes_are_left_out_and_written_as_null(files_on_disk, tmp_path):
    name, _ = files_on_disk
    evaluator = SemSegEvaluator(name, output_dir=str(tmp_path / "out"))
    truth = torch.tensor([[0, 0, 255, 0]], dtype=torch.uint8)
    prediction = np.array([[0, 1, 2, 0]])
    evaluator.process([{"file_name": "0.jpg", "sem_seg_truth": truth}], [{"sem_seg": logits_of(prediction, 3)}])
    results = evaluator.evaluate()["sem_seg"]
    assert results["IoU-a"] == pytest.approx(200 / 3) and results["IoU-b"] == 0 and math.isnan(results["IoU-c"])
    assert results["mIoU"] == pytest.approx(100 / 3)
    assert json.loads((tmp_path / "out" / "sem_seg_evaluation.json").read_text())["sem_seg"]["IoU-c"] is None


def test_nothing_but_void_warns(caplog):
    evaluator = SemSegEvaluator(NAME)
    truth = torch.full((4, 4), 255, dtype=torch.uint8)
    evaluator.process([{"file_name": "a", "sem_seg_truth": truth}], [{"sem_seg": torch.zeros(CLASSES, 4, 4)}])
    assert math.isnan(evaluator.evaluate()["sem_seg"]["mIoU"])
    assert "no labelled pixel" in caplog.text


def test_refusals():
    evaluator = SemSegEvaluator(NAME)
    sample = {"file_name": "street.png", "sem_seg_truth": torch.zeros(6, 8, dtype=torch.uint8)}
    with pytest.raises(ValueError, match=r"street.png is \(8, 6, 7\).*\(6, 8\)"):
        evaluator.process([sample], [{"sem_seg": torch.zeros(CLASSES, 6, 7)}])
    with pytest.raises(ValueError, match=r"\(5, 6, 8\).*8 classes"):
        evaluator.process([sample], [{"sem_seg": torch.zeros(5, 6, 8)}])
    with pytest.raises(ValueError, match=r"street.png holds \[8\]"):
        evaluator.process(
            [sample | {"sem_seg_truth": torch.full((6, 8), 8, dtype=torch.uint8)}],
            [{"sem_seg": torch.zeros(CLASSES, 6, 8)}],
        )
    with pytest.raises(ValueError, match=r"no 'sem_seg_truth'.*read_labels"):
        evaluator.process([{"file_name": "street.png"}], [{"sem_seg": torch.zeros(CLASSES, 6, 8)}])
    with pytest.raises(ValueError, match="no stuff_classes"):
        SemSegEvaluator("scaleeq_test_unknown")


class Guesser(torch.nn.Module):
    def forward(self, batch):
        return [guesses(int(sample["image_id"][-4:]))[1] for sample in batch]


def test_works_in_the_engines_loop():
    evaluator = SemSegEvaluator(NAME)
    loader = [[guesses(index)[0]] for index in range(12)]
    first = inference_on_dataset(Guesser(), loader, evaluator)
    second = inference_on_dataset(Guesser(), loader, evaluator)
    assert first == second and evaluator.num_images == 12, "the loop resets the evaluator"


def test_two_processes_give_the_numbers_of_one(tmp_path):
    script = Path(__file__).with_name("two_processes.py")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(script), str(rank), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    results = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]

    evaluators = [evaluator_with_parts() for _ in range(4)]
    for index in range(64):
        sample, output = guesses(index)
        for evaluator in (evaluators[0], evaluators[1 + index * 3 // 64]):
            evaluator.process([sample], [output])
    alone, *thirds = evaluators
    assert results[0]["metrics"] == alone.evaluate(), "exactly"
    assert alone.results(add_counts([third.counts() for third in thirds])) == alone.evaluate(), "of three, too"
    assert {"mIoU", "score", "trimap_mIoU_3px", "boundary_IoU"} <= set(results[0]["metrics"]["sem_seg"])
    assert results[1]["metrics"] is None
    assert results[0]["tested"] + results[1]["tested"] == [f"val_{index:04d}" for index in range(64)]
    assert results[0]["trained"] + results[1]["trained"] == results[0]["alone"]


class LargeClasses:
    """A part of one's own: the share of pixels predicted as each of two classes."""

    note = "largeness: of one's own"

    def __init__(self):
        self.pixels = np.zeros(3, np.int64)

    def update(self, prediction, truth, sample):
        self.pixels += (*[int((prediction == label).sum()) for label in (0, 2)], prediction.size)

    def counts(self):
        return {"pixels": self.pixels}

    def results(self, counts):
        first, third, total = counts["pixels"].tolist()
        return {"largeness-a": 100 * first / total, "largeness-c": 100 * third / total, "largeness": 7.0}


def test_a_part_of_ones_own(files_on_disk, caplog):
    """Its counts are in the results, its classes a column, its note below; reset forgets them."""
    caplog.set_level(logging.INFO, "scaleeq")
    evaluator = SemSegEvaluator(files_on_disk[0], parts=[LargeClasses(), ADE20KScore()])
    truth, prediction = np.zeros((2, 4), np.uint8), np.array([[0, 0, 0, 0], [0, 1, 2, 2]], np.uint8)
    for _ in range(2):
        evaluator.reset()
        evaluator.count(prediction, truth, {"file_name": "x"})
        results = evaluator.evaluate()["sem_seg"]
    assert (results["largeness-a"], results["largeness-c"]) == (62.5, 25.0)
    assert (results["mIoU_all"], results["score"]) == pytest.approx((62.5 / 3, (62.5 / 3 + 62.5) / 2))
    assert "| class   |   IoU |   accuracy |   largeness |   % of pixels |" in caplog.text
    assert "\nlargeness 7.00\nmIoU_all 20.83, score 41.67\n" in caplog.text and LargeClasses.note in caplog.text


def test_columns_are_of_classes_alone():
    """A kind with names that are no classes, such as IoU_category-flat, is no column, whatever else it has."""
    further = {"iIoU-car": 1.0, "iIoU": 2.0, "IoU_category-flat": 3.0, "IoU_category-sky": 4.0}
    columns = columns_by_class(further, ["sky", "car"])
    assert list(columns) == ["iIoU"] and math.isnan(columns["iIoU"][0]) and columns["iIoU"][1] == 1.0
