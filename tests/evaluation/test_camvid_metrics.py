"""CamVid's labels, with predictions that are wrong in the ways of networks: every metric equals torchmetrics'.

torchmetrics counts in int64 but divides in float32: the exact comparison is with float64 of its matrix; its own values
agree at float32's precision.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from scaleeq.data import read_labels
from scaleeq.data.sets import camvid
from scaleeq.evaluation import SemSegEvaluator

HERE = Path(__file__).resolve()
CANDIDATES = [os.environ.get("DETECTRON2_DATASETS", "datasets"), HERE.parents[3] / "shared" / "datasets"]
REAL_ROOT = next((str(root) for root in CANDIDATES if (Path(root) / "CamVid" / "val").is_dir()), None)
NUM_CLASSES, NUM_IMAGES = len(camvid.CLASSES), 12

pytestmark = pytest.mark.skipif(REAL_ROOT is None, reason="CamVid is not on this machine")


def prediction_of(truth: np.ndarray, seed: int) -> np.ndarray:
    """Coarse borders, a region of another class, thin structures lost, noise; void is predicted as something."""
    rng = np.random.default_rng(seed)
    small = cv2.resize(truth, (truth.shape[1] // 8, truth.shape[0] // 8), interpolation=cv2.INTER_NEAREST)
    prediction = cv2.resize(small, truth.shape[::-1], interpolation=cv2.INTER_NEAREST)
    top, left = rng.integers(0, 200, 2)
    prediction[top : top + 60, left : left + 90] = rng.integers(0, NUM_CLASSES)
    noise = rng.random(truth.shape) < 0.02
    prediction[noise] = rng.integers(0, NUM_CLASSES, int(noise.sum()))
    return np.where(prediction >= NUM_CLASSES, seed % NUM_CLASSES, prediction).astype(np.uint8)


def test_every_metric_equals_torchmetrics():
    classification = pytest.importorskip("torchmetrics.classification")
    records = camvid.load_camvid("val", REAL_ROOT)
    evaluator = SemSegEvaluator("camvid_sem_seg_val")
    options = {"ignore_index": 255, "validate_args": False}
    jaccard = classification.MulticlassJaccardIndex(NUM_CLASSES, average="none", **options)
    recall = classification.MulticlassAccuracy(NUM_CLASSES, average="none", **options)
    accuracy = classification.MulticlassAccuracy(NUM_CLASSES, average="micro", **options)
    for seed, record in enumerate(records[:: len(records) // NUM_IMAGES][:NUM_IMAGES]):
        truth = read_labels(record)
        prediction = prediction_of(truth, seed)
        evaluator.count(prediction, truth, record)
        pair = torch.from_numpy(prediction).long()[None], torch.from_numpy(truth).long()[None]
        for metric in (jaccard, recall, accuracy):
            metric.update(*pair)
    results = evaluator.evaluate()["sem_seg"]

    matrix = jaccard.confmat.numpy().astype(np.float64)
    right, true = np.diag(matrix), matrix.sum(1)
    iou = right / (true + matrix.sum(0) - right)
    expected = {
        "mIoU": iou.mean(),
        "fwIoU": (iou * true).sum() / true.sum(),
        "mACC": (right / true).mean(),
        "pACC": right.sum() / true.sum(),
        **{f"IoU-{name}": value for name, value in zip(camvid.CLASSES, iou, strict=True)},
        **{f"ACC-{name}": value for name, value in zip(camvid.CLASSES, right / true, strict=True)},
    }
    assert results == pytest.approx({name: 100 * value for name, value in expected.items()}, abs=1e-9)
    assert 40 < results["mIoU"] < 90, "neither perfect nor hopeless"

    values = [*jaccard.compute().tolist(), *recall.compute().tolist(), accuracy.compute().item()]
    names = [f"{kind}-{name}" for kind in ("IoU", "ACC") for name in camvid.CLASSES] + ["pACC"]
    assert [results[name] for name in names] == pytest.approx([100 * value for value in values], abs=1e-4)
