"""How fast images are counted, against peers, in one run: contenders take turns, medians, CPU time and wall time.

Excluded everywhere: the model, and the argmax. Peers get what they would have by then, int64 tensors. A peer that is
not installed is named as such. mmsegmentation may live in another interpreter, which counts the same maps in turn.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from tabulate import tabulate

from scaleeq.evaluation.benchmark_peer import MMSEGMENTATION, set_threads, tensors, time_pass
from scaleeq.evaluation.boundary import boundary_parts
from scaleeq.evaluation.confusion import ConfusionMatrix

SIZES = {"512 x 683, 150 classes": (512, 683, 150), "1024 x 2048, 19 classes": (1024, 2048, 19)}
OURS = "ScaleEq, ConfusionMatrix.update"
COPY = "a copy of the bytes"
VOID = 255
IGNORED = 0.08  # share of the regions
CLASSES_AN_IMAGE = (14, 20)

Times = tuple[float, float]  # seconds an image: wall, CPU
Pair = tuple[np.ndarray, np.ndarray]  # prediction and truth: (H, W) uint8


def label_map(rng: np.random.Generator, height: int, width: int, num_classes: int, *, pixels: int = 5000) -> np.ndarray:
    """(H, W) uint8: wavy Voronoi regions of about so many pixels, of 14 to 20 classes and 8 % void."""
    count = height * width // pixels
    seeds = np.ones((height, width), np.uint8)
    seeds.ravel()[rng.choice(height * width, count, replace=False)] = 0
    _, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    classes = rng.choice(num_classes, min(num_classes, int(rng.integers(*CLASSES_AN_IMAGE, endpoint=True))), False)
    label_of = rng.choice(classes, cells.max() + 1).astype(np.uint8)
    label_of[rng.random(len(label_of)) < IGNORED] = VOID
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = x + 5 * np.sin(y / 11) + 2 * np.sin(y / 3.7), y + 5 * np.sin(x / 9) + 2 * np.sin(x / 4.1)
    return cv2.remap(label_of[cells], *waves, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)


def label_pair(rng: np.random.Generator, height: int, width: int, num_classes: int, *, noise: bool) -> Pair:
    """A truth, and as prediction the truth moved by 3 px with some other regions; or pure noise."""
    truth = label_map(rng, height, width, num_classes)
    if noise:
        return rng.integers(0, num_classes, truth.shape, np.uint8), truth
    guess = label_map(rng, height, width, num_classes)
    guess[guess == VOID] = 0
    moved = np.roll(truth, (1, 3), (0, 1))
    wrong = (cv2.resize(rng.random((12, 16), np.float32), (width, height)) > 0.8) | (moved == VOID)
    return np.where(wrong, guess, moved), truth


def ours(pairs: Sequence[Pair], num_classes: int, folder: Path) -> Callable[[int], None]:
    """A contender: index of an image -> counted."""
    matrix = ConfusionMatrix(num_classes=num_classes)
    return lambda index: matrix.update(*pairs[index])


def copied(pairs: Sequence[Pair], num_classes: int, folder: Path) -> Callable[[int], None]:
    target = np.empty((2, *pairs[0][0].shape), np.uint8)

    def step(index: int) -> None:
        for to, labels in zip(target, pairs[index], strict=True):
            np.copyto(to, labels)

    return step


class Scores:
    """In place of logits: their argmax, so that a peer's own step runs without the cost of one."""

    def __init__(self, labels: torch.Tensor) -> None:
        self.labels = labels

    def argmax(self, dim: int) -> torch.Tensor:
        return self.labels


def detectron2(pairs: Sequence[Pair], num_classes: int, folder: Path, *, whole: bool) -> Callable[[int], None]:
    """Detectron2's SemSegEvaluator.process. whole: as shipped; else its confusion matrix alone, truth in memory."""
    data = importlib.import_module("detectron2.data")
    module = importlib.import_module("detectron2.evaluation.sem_seg_evaluation")
    name = f"benchmark_{folder.name}_{whole}"
    files = [str(folder / f"{index}.png") for index in range(len(pairs))]
    data.DatasetCatalog.register(name, lambda: [{"file_name": file, "sem_seg_file_name": file} for file in files])
    data.MetadataCatalog.get(name).set(stuff_classes=[str(label) for label in range(num_classes)], ignore_label=VOID)
    truths = dict(zip(files, (truth for _, truth in pairs), strict=True))
    options: dict[str, Any] = {}
    if not whole:
        options["sem_seg_loading_fn"] = lambda file, dtype: truths[file].astype(dtype)
    evaluator = module.SemSegEvaluator(name, distributed=False, **options)
    if not whole:
        evaluator._compute_boundary_iou = False
        evaluator.encode_json_sem_seg = lambda labels, file: []
    evaluator.reset()
    outputs = [{"sem_seg": Scores(prediction)} for prediction, _ in tensors(pairs)]

    def step(index: int) -> None:
        evaluator.process([{"file_name": files[index]}], [outputs[index]])
        evaluator._predictions.clear()

    return step


def torchmetrics(pairs: Sequence[Pair], num_classes: int, folder: Path) -> Callable[[int], None]:
    classification = importlib.import_module("torchmetrics.classification")
    metric = classification.MulticlassJaccardIndex(num_classes, ignore_index=VOID, validate_args=False)
    inputs = tensors(pairs)
    return lambda index: metric.update(*inputs[index])


CONTENDERS: dict[str, Callable[..., Callable[[int], None]]] = {
    OURS: ours,
    COPY: copied,
    "Detectron2, SemSegEvaluator.process": lambda *inputs: detectron2(*inputs, whole=True),
    "Detectron2, its confusion matrix alone": lambda *inputs: detectron2(*inputs, whole=False),
    "torchmetrics, MulticlassJaccardIndex without validation": torchmetrics,
}


class OtherInterpreter:
    """mmsegmentation in another environment, which counts the maps of a folder whenever it is told to."""

    def __init__(self, python: str, folder: Path, num_classes: int) -> None:
        """python: an interpreter with mmsegmentation. folder: holds predictions.npy and truths.npy."""
        script = str(Path(__file__).with_name("benchmark_peer.py"))
        self.process = subprocess.Popen(
            [python, script, str(folder), str(num_classes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def time(self, threads: int) -> Times:
        """Seconds an image of one pass."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{threads}\n")
        self.process.stdin.flush()
        wall, cpu = self._answer()
        return wall, cpu

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> list[float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ValueError("the interpreter of --peer-python cannot count with mmsegmentation, see its error above")
        return json.loads(line)


def time_counting(
    *, images: int, rounds: int, threads: Sequence[int], peer_python: str | None = None, noise: bool = False
) -> list[dict[str, Any]]:
    """A row for each size, number of threads and contender: images a second and how many times slower than ours."""
    rows: list[dict[str, Any]] = []
    for title, (height, width, num_classes) in SIZES.items():
        rng = np.random.default_rng(0)
        pairs = [label_pair(rng, height, width, num_classes, noise=noise) for _ in range(images)]
        with tempfile.TemporaryDirectory() as name:
            rows += [
                {"maps": f"{title}, {'noise' if noise else 'smooth'}", **row}
                for row in _time_size(pairs, num_classes, Path(name), rounds, threads, peer_python)
            ]
    return rows


def _time_size(
    pairs: Sequence[Pair], num_classes: int, folder: Path, rounds: int, threads: Sequence[int], peer_python: str | None
) -> list[dict[str, Any]]:
    for index, (_, truth) in enumerate(pairs):
        cv2.imwrite(str(folder / f"{index}.png"), truth)
    np.save(folder / "predictions.npy", np.stack([prediction for prediction, _ in pairs]))
    np.save(folder / "truths.npy", np.stack([truth for _, truth in pairs]))
    timers: dict[str, Callable[[int], Times] | None] = {}
    for name, make in CONTENDERS.items():
        try:
            step = make(pairs, num_classes, folder)
        except ImportError:
            timers[name] = None
            continue
        timers[name] = functools.partial(_time_here, step, len(pairs))
    other = OtherInterpreter(peer_python, folder, num_classes) if peer_python else None
    timers[MMSEGMENTATION] = other.time if other else None
    rows = []
    for count in threads:
        times: dict[str, list[Times]] = {name: [] for name in timers}
        for _ in range(rounds + 1):
            for name, timer in timers.items():
                if timer is not None:
                    times[name].append(timer(count))
        rows += _rows(times, count)
    if other:
        other.close()
    return rows


def _time_here(step: Callable[[int], None], images: int, threads: int) -> Times:
    set_threads(threads)
    return time_pass(step, images)


def _rows(times: dict[str, list[Times]], threads: int) -> list[dict[str, Any]]:
    """times: of each contender and round; the first round is a warm-up."""
    rows = []
    for name, values in times.items():
        row: dict[str, Any] = {"threads": threads, "contender": name}
        for index, kind in enumerate(("wall", "cpu")):
            kept = [value[index] for value in values[1:]]
            reference = [value[index] for value in times[OURS][1:]]
            row[f"images_per_s_{kind}"] = 1 / median(kept) if kept else None
            ratios = [one / other for one, other in zip(kept, reference, strict=True)] if kept else []
            row[f"times_ours_{kind}"] = median(ratios) if ratios else None
        rows.append(row)
    return rows


def memory_growth(images: int, *, first: int = 200) -> dict[str, Any]:
    """The most memory in use up to the first images and up to all, MB: confusion and boundary metrics, 64 x 96 px."""
    rng = np.random.default_rng(0)
    pairs = [label_pair(rng, 64, 96, 19, noise=False) for _ in range(20)]
    matrix, parts = ConfusionMatrix(num_classes=19), boundary_parts(19)
    peak, peaks = 0.0, []
    for index in range(images):
        prediction, truth = pairs[index % len(pairs)]
        matrix.update(prediction, truth)
        for part in parts:
            part.update(prediction, truth, {})
        if index % 20 == 19 or index + 1 in (first, images):
            peak = max(peak, _resident_mb())
        if index + 1 in (first, images):
            peaks.append(peak)
    return {"images": [min(first, images), images], "peak_mb": peaks, "growth_mb": peaks[-1] - peaks[0]}


def _resident_mb() -> float:
    """Memory in use; where the system does not tell, the most so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def benchmark_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of time_counting as a table; what is not installed is said to be."""

    def cell(value: float | None) -> str:
        return "not installed" if value is None else f"{value:,.1f}"

    columns = ("images_per_s_cpu", "images_per_s_wall", "times_ours_cpu", "times_ours_wall")
    return tabulate(
        [[row["maps"], row["threads"], row["contender"], *(cell(row[column]) for column in columns)] for row in rows],
        headers=[
            "maps",
            "threads",
            "contender",
            "images/s, CPU",
            "images/s, wall",
            "x our time, CPU",
            "x our time, wall",
        ],
        tablefmt="pipe",
        disable_numparse=True,
    )


def default_threads() -> int:
    """As many as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
