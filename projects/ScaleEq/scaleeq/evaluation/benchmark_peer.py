"""The part of the benchmark that also runs in another environment, as a script: numpy, torch and mmsegmentation alone.

    PYTHON benchmark_peer.py FOLDER NUM_CLASSES

reads predictions.npy and truths.npy of the folder, then for each line with a number of threads prints the seconds an
image of one pass, [wall, CPU], as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

MMSEGMENTATION = "mmsegmentation, IoUMetric.process"


def set_threads(count: int) -> None:
    """Of torch and, where it is, OpenCV."""
    torch.set_num_threads(count)
    with contextlib.suppress(ImportError):
        importlib.import_module("cv2").setNumThreads(count)


def tensors(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Prediction and truth: (H, W) int64."""
    return [
        (torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
        for prediction, truth in pairs
    ]


def time_pass(step: Callable[[int], Any], images: int) -> tuple[float, float]:
    """Seconds an image of step(0), ..., step(images - 1): wall, CPU of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    for index in range(images):
        step(index)
    return (time.perf_counter() - wall) / images, (time.process_time() - cpu) / images


def mmsegmentation(pairs: Sequence[tuple[np.ndarray, np.ndarray]], num_classes: int) -> Callable[[int], None]:
    metrics = importlib.import_module("mmseg.evaluation.metrics")
    metric = metrics.IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = {"classes": [str(label) for label in range(num_classes)]}
    samples = [
        {"pred_sem_seg": {"data": prediction[None]}, "gt_sem_seg": {"data": truth[None]}}
        for prediction, truth in tensors(pairs)
    ]

    def step(index: int) -> None:
        metric.process({}, [samples[index]])
        metric.results.clear()

    return step


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print too
    folder, num_classes = Path(sys.argv[1]), int(sys.argv[2])
    pairs = list(zip(np.load(folder / "predictions.npy"), np.load(folder / "truths.npy"), strict=True))
    step = mmsegmentation(pairs, num_classes)
    print("[]", file=answers, flush=True)
    for line in sys.stdin:
        set_threads(int(line))
        print(json.dumps(time_pass(step, len(pairs))), file=answers, flush=True)


if __name__ == "__main__":
    main()
