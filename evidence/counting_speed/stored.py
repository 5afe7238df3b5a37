"""The benchmark of what reads files and of what must not grow: stored predictions, and memory over many images."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from scaleeq.engine import DatasetCatalog, MetadataCatalog
from scaleeq.evaluation.boundary import boundary_parts
from scaleeq.evaluation.cityscapes import CLASSES, InstanceIoU
from scaleeq.evaluation.predictions import IMAGES_A_TASK, Reader, score_predictions
from scaleeq.evaluation.sem_seg import SemSegEvaluator

from .contenders import COUNTING, Row, Subject, Times, compared
from .maps import label_pair, predicted, scene_with_instances

STORED = "ScaleEq, score_predictions"
PILLOW, OPENCV = "decoding the two PNGs alone, Pillow", "decoding the two PNGs alone, OpenCV"
SUBJECTS = (Subject(512, 683, 150, "smooth", COUNTING), Subject(1024, 2048, 19, "smooth", COUNTING))


def time_stored(
    reader: Reader, *, images: int, rounds: int, workers: int, subjects: Sequence[Subject] = SUBJECTS
) -> list[Row]:
    """Rows as of time_counting: scoring a folder of pictures, and loops that decode prediction and truth only.

    images: of each size; 8 different ones, which are in the system's cache. workers: processes, of either.
    """
    cv2.setNumThreads(1)  # before processes are forked: those of a process with OpenCV's threads can wait for ever
    rows: list[Row] = []
    for subject in subjects:
        with tempfile.TemporaryDirectory() as folder:
            pairs = _write_pictures(subject, Path(folder), images)
            name = f"benchmark_stored_{subject.title}"
            _register(name, [str(label) for label in range(subject.num_classes)], pairs)
            ways: dict[str, Callable[[], Any]] = {
                STORED: lambda: score_predictions(f"{folder}/predictions", name, reader, workers=workers),  # noqa: B023
                PILLOW: lambda: _in_pool(_decode_pillow, pairs, workers),  # noqa: B023
                OPENCV: lambda: _in_pool(_decode_opencv, pairs, workers),  # noqa: B023
            }
            times: dict[str, list[Times]] = {way: [] for way in ways}
            for _ in range(rounds + 1):
                for way, run in ways.items():
                    times[way].append(_timed(run, images))
            title = f"{subject.title}, {images:,} images"
            rows += [
                {"maps": title, "threads": f"{workers} processes", "contender": way, "version": None}
                | compared(times[way], times[STORED])
                for way in ways
            ]
            _forget(name)
    return rows


def memory_growth(images: int, *, first: int = 200) -> dict[str, Any]:
    """The most memory in use up to the first images and up to all, MB: SemSegEvaluator.process of batches of one.

    Logits of 19 classes at 64 x 96 px; confusion matrix, boundary metrics, iIoU.
    """
    rng, name = np.random.default_rng(0), "benchmark_memory"
    _register(name, CLASSES, [])
    evaluator = SemSegEvaluator(name, parts=[*boundary_parts(len(CLASSES)), InstanceIoU(CLASSES)], distributed=False)
    batches = []
    for index in range(20):
        truth, instances = scene_with_instances(rng, 64, 96)
        scores = np.eye(len(CLASSES), dtype=np.float32)[predicted(rng, truth, len(CLASSES))].transpose(2, 0, 1)
        sample = {"file_name": str(index), "sem_seg_truth": truth, "instance_truth": instances}
        batches.append(([sample], [{"sem_seg": torch.from_numpy(scores.copy())}]))
    peak, peaks = 0.0, []
    for index in range(images):
        evaluator.process(*batches[index % len(batches)])
        if index % 20 == 19 or index + 1 in (first, images):
            peak = max(peak, _resident_mb())
        if index + 1 in (first, images):
            peaks.append(peak)
    _forget(name)
    return {"images": [min(first, images), images], "peak_mb": peaks, "growth_mb": peaks[-1] - peaks[0]}


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own, which shares no memory with this one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def memory_line(memory: dict[str, Any]) -> str:
    (few, many), (before, after) = memory["images"], memory["peak_mb"]
    return f"Peak memory after {few:,} images {before:.1f} MB, after {many:,} images {after:.1f} MB."


def _write_pictures(subject: Subject, folder: Path, images: int) -> list[tuple[str, str]]:
    """Paths of (truth, prediction), below truths/ and predictions/; 8 different ones, the others are links to them."""
    rng = np.random.default_rng(0)
    pairs = [
        tuple(str(folder / kind / f"{index}.png") for kind in ("truths", "predictions")) for index in range(images)
    ]
    for kind in ("truths", "predictions"):
        (folder / kind).mkdir()
    for index, (truth_file, prediction_file) in enumerate(pairs):
        if index < 8:
            prediction, truth = label_pair(rng, subject.height, subject.width, subject.num_classes)
            for path, labels in ((truth_file, truth), (prediction_file, prediction)):
                Image.fromarray(labels).save(path)
        else:
            for path, original in zip((truth_file, prediction_file), pairs[index % 8], strict=True):
                os.link(original, path)
    return [(truth, prediction) for truth, prediction in pairs]


def _register(name: str, classes: Sequence[str], pairs: Sequence[tuple[str, str]]) -> None:
    DatasetCatalog.register(name, lambda: [{"file_name": truth, "sem_seg_file_name": truth} for truth, _ in pairs])
    MetadataCatalog.get(name).set(stuff_classes=list(classes), ignore_label=255, evaluator_type="sem_seg")


def _forget(name: str) -> None:
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def _decode_pillow(paths: Sequence[tuple[str, str]]) -> int:
    return sum(np.asarray(Image.open(path)).shape[0] for pair in paths for path in pair)


def _decode_opencv(paths: Sequence[tuple[str, str]]) -> int:
    return sum(np.asarray(cv2.imread(path, cv2.IMREAD_UNCHANGED)).shape[0] for pair in paths for path in pair)


def _in_pool(
    decode: Callable[[Sequence[tuple[str, str]]], int], pairs: Sequence[tuple[str, str]], workers: int
) -> None:
    tasks = [pairs[start : start + IMAGES_A_TASK] for start in range(0, len(pairs), IMAGES_A_TASK)]
    method = "fork" if sys.platform == "linux" else "spawn"  # as score_predictions
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method)) as pool:
        list(pool.map(decode, tasks))


def _timed(run: Callable[[], Any], images: int) -> Times:
    wall, cpu = time.perf_counter(), _cpu_s()
    run()
    return (time.perf_counter() - wall) / images, (_cpu_s() - cpu) / images


def _cpu_s() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _resident_mb() -> float:
    """Memory in use; where the system does not tell, the most so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
