"""What peers make of classes that are in no truth, and the policy that gives the same number.

Oracles: torchmetrics and Detectron2 where they are installed; for ADE20K's devkit, segmentation_models_pytorch,
mmsegmentation and HRNet, their published definitions as slow loops over pixels. The label maps are toy scenes.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

from scaleeq.data import read_labels, register_dataset
from scaleeq.data.sets import toy
from scaleeq.engine import DatasetCatalog, MetadataCatalog
from scaleeq.evaluation import ABSENT_POLICIES, ConfusionMatrix, SemSegEvaluator, metrics_from_counts

NUM_CLASSES = 12  # 8 of the toy scenes; 8 and 9 are in nothing, 10 and 11 are predicted
VOID = 255


def counts_of(iou: float, *, ghosts: int) -> np.ndarray:
    """(19, 19): 15 classes of the truth have this IoU; of the other 4, `ghosts` are predicted, on one pixel each."""
    right = round(iou * 100_000)
    wrong = (100_000 - right) // 2
    counts = np.zeros((19, 19), np.int64)
    for label in range(15):
        counts[label, label], counts[label, (label + 1) % 15] = right, wrong
    for ghost in range(15, 15 + ghosts):
        counts[0, ghost] += 1
        counts[0, 1] -= 1
    return counts


@pytest.mark.parametrize(
    ("iou", "ghosts", "expected"),
    [
        (0.5603, 0, {"exclude": 0.5603, "truth": 0.5603, "one": 0.6529, "zero": 0.4423}),
        (0.57552, 2, {"exclude": 0.5078, "truth": 0.5755, "one": 0.5596, "zero": 0.4544}),
    ],
    ids=["4 of 19 in neither", "2 of them predicted"],
)
def test_the_numbers_that_peers_report(iou, ghosts, expected):
    """Measured with the peers on one data set: mmsegmentation, torchmetrics and cityscapesscripts; Detectron2;
    segmentation_models_pytorch; ADE20K's devkit and HRNet."""
    counts = counts_of(iou, ghosts=ghosts)
    assert {policy: metrics_from_counts(counts, policy).mean_iou for policy in ABSENT_POLICIES} == (
        pytest.approx(expected, abs=5.1e-5)
    )


@pytest.fixture(scope="module")
def maps() -> list[tuple[np.ndarray, np.ndarray]]:
    """(prediction, truth) of 6 toy scenes; the prediction is moved by some pixels and holds two classes too many."""
    pairs = []
    for record in DatasetCatalog.get("toy_sem_seg_val")[:6]:
        truth = read_labels(record)
        prediction = np.roll(np.where(truth == VOID, toy.POLE, truth), (3, 2), (0, 1)).astype(np.uint8)
        prediction[:4, :9], prediction[20:22, 5:9] = 10, 11
        pairs.append((prediction, truth))
    return pairs


@pytest.fixture(scope="module")
def ours(maps) -> dict[str, float]:
    matrix = ConfusionMatrix(num_classes=NUM_CLASSES)
    for prediction, truth in maps:
        matrix.update(prediction, truth)
    absent = matrix.counts.sum(axis=1) == 0
    assert absent.sum() == 4 and matrix.counts[:, absent].any(axis=0).sum() == 2, "the maps ask all questions"
    return {policy: matrix.metrics(policy).mean_iou for policy in ABSENT_POLICIES}


def areas(maps) -> list[tuple[int, int, int]]:
    """(intersection, predicted, true) of each class, pixel by pixel, where the truth is not void."""
    result = [[0, 0, 0] for _ in range(NUM_CLASSES)]
    for prediction, truth in maps:
        for predicted, true in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if true != VOID:
                result[predicted][1] += 1
                result[true][2] += 1
                if predicted == true:
                    result[true][0] += 1
    return [tuple(row) for row in result]


def test_the_policies_differ_on_these_maps(ours):
    assert len({round(value, 6) for value in ours.values()}) == len(ABSENT_POLICIES)


def test_definitions_of_peers(maps, ours):
    rows = areas(maps)
    devkit = [both / (2.2e-16 + predicted + true - both) for both, predicted, true in rows]
    hrnet = [both / max(1.0, predicted + true - both) for both, predicted, true in rows]
    scores = [(both, predicted - both, true - both) for both, predicted, true in rows]  # tp, fp, fn
    smp = [tp / (tp + fp + fn) if tp + fp + fn else 1.0 for tp, fp, fn in scores]  # zero_division=1.0
    with np.errstate(invalid="ignore"):
        mmseg = np.nanmean([np.float64(both) / np.float64(p + t - both) for both, p, t in rows])
    assert ours["zero"] == pytest.approx(np.mean(devkit), abs=1e-12)
    assert ours["zero"] == pytest.approx(np.mean(hrnet), abs=1e-12)
    assert ours["one"] == pytest.approx(np.mean(smp), abs=1e-12)
    assert ours["exclude"] == pytest.approx(mmseg, abs=1e-12)


def test_torchmetrics(maps, ours):
    classification = pytest.importorskip("torchmetrics.classification")
    jaccard = classification.MulticlassJaccardIndex(NUM_CLASSES, average="macro", ignore_index=VOID)
    for prediction, truth in maps:
        jaccard.update(torch.from_numpy(prediction).long()[None], torch.from_numpy(truth).long()[None])
    assert ours["exclude"] == pytest.approx(jaccard.compute().item(), abs=1e-6)  # its division is in float32


def test_detectron2(maps, ours):
    """Since July 2022 a class that is in no truth is left out; the release 0.6 counted it where it is predicted."""
    evaluation = pytest.importorskip("detectron2.evaluation")
    data = pytest.importorskip("detectron2.data")
    truths = {str(index): truth for index, (_, truth) in enumerate(maps)}
    name = "scaleeq_test_absent"
    records = [{"file_name": key, "sem_seg_file_name": key} for key in truths]
    data.DatasetCatalog.register(name, lambda: records)
    classes = [str(label) for label in range(NUM_CLASSES)]
    data.MetadataCatalog.get(name).set(stuff_classes=classes, ignore_label=VOID)
    try:
        theirs = evaluation.SemSegEvaluator(
            name, distributed=False, sem_seg_loading_fn=lambda key, dtype: truths[key].astype(dtype)
        )
        theirs.reset()
        for index, (prediction, _) in enumerate(maps):
            scores = torch.nn.functional.one_hot(torch.from_numpy(prediction).long(), NUM_CLASSES).permute(2, 0, 1)
            theirs.process([{"file_name": str(index)}], [{"sem_seg": scores}])
        mean_iou = theirs.evaluate()["sem_seg"]["mIoU"]
    finally:
        data.DatasetCatalog.remove(name)
        data.MetadataCatalog.remove(name)
    policy = "truth" if "logical_and(acc_valid" in inspect.getsource(evaluation.SemSegEvaluator) else "exclude"
    assert 100 * ours[policy] == pytest.approx(mean_iou, rel=1e-12)


def test_a_data_set_by_each_policy(caplog):
    """The policy is said in words, in the table; with it, what the classes in no truth cost."""
    name = "scaleeq_test_policies"
    register_dataset(name, list, classes=["a", "b", "c"], colors=[(0, 0, 0)] * 3)
    truth, prediction = np.array([[0, 0, 0, 0]], np.uint8), np.array([[0, 0, 0, 1]], np.uint8)
    try:
        for policy, mean_iou in {"exclude": 37.5, "zero": 25, "one": 175 / 3, "truth": 75}.items():
            caplog.clear()
            evaluator = SemSegEvaluator(name, absent=policy)
            evaluator.count(prediction, truth, {"file_name": "x"})
            with caplog.at_level("INFO", "scaleeq"):
                assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(mean_iou)
            assert f"2 of 3 are in no truth. Policy '{policy}': {ABSENT_POLICIES[policy]}" in caplog.text
            assert ("in no truth as 0: 25.00" in caplog.text) == (policy != "zero")
        with pytest.raises(ValueError, match="'none'; choose one of exclude, zero, one, truth"):
            SemSegEvaluator(name, absent="none")
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
