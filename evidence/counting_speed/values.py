"""How fast depth, normals, edges, saliency and parts are scored, against ten lines of numpy each, in one run.

One process and thread; ours and the reference take turns, an image each, and CPU time is compared within a turn. Both
get float32 predictions and truths in memory. A reference computes what a program for one data set would, in float64
with sums of floats: neither exact over processes nor checked. For edges it is of plain pixels; odsF has no reference of
ten lines, and its time is said alone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from scaleeq.data.maps import PARTS
from scaleeq.evaluation.classes import ClassesScore
from scaleeq.evaluation.depth import DepthScore
from scaleeq.evaluation.edges import THRESHOLDS, EdgesScore
from scaleeq.evaluation.normals import NormalsScore
from scaleeq.evaluation.saliency import KINDS, SaliencyScore

HEIGHT, WIDTH = 480, 640  # NYUD's
Pair = tuple[np.ndarray, np.ndarray]


def depth(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    valid = np.isfinite(truth) & (truth > 0)
    found, true = prediction[0][valid].astype(np.float64), truth[valid].astype(np.float64)
    error, log = found - true, np.log(np.maximum(found, 1e-3)) - np.log(true)
    ratio = np.maximum(np.maximum(found, 1e-3) / true, true / np.maximum(found, 1e-3))
    sums = [(error**2).sum(), (np.abs(error) / true).sum(), (error**2 / true).sum(), (log**2).sum(), log.std()]
    return {"sums": sum(sums), "within": sum((ratio < 1.25**power).sum() for power in (1, 2, 3))}


def normals(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    known = np.linalg.norm(truth, axis=0) > 0.5
    a, b = prediction[:, known].astype(np.float64), truth[:, known].astype(np.float64)
    a, b = a / np.linalg.norm(a, axis=0), b / np.linalg.norm(b, axis=0)
    degrees = np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=0), np.linalg.norm(a + b, axis=0)))
    below = [(degrees < limit).sum() for limit in (11.25, 22.5, 30)]
    return {"sum": degrees.sum(), "below": sum(below), "median": float(np.median(degrees))}


def marks(prediction: np.ndarray, truth: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    known = truth != 255
    probability, true = prediction[0][known], truth[known] == 1
    right, predicted = [], []
    for threshold in thresholds:
        chosen = probability > threshold
        right.append((chosen & true).sum())
        predicted.append(chosen.sum())
    return {"right": sum(right), "predicted": sum(predicted), "true": true.sum()}


def parts(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    known, classes = truth != 255, len(prediction)
    pairs = truth[known].astype(np.int64) * classes + prediction.argmax(0)[known]
    return {"sum": float(np.bincount(pairs, minlength=classes**2).max())}


def subjects(rng: np.random.Generator) -> dict[str, tuple[Pair, Callable[[], Any], Callable[[Pair], Any] | None]]:
    """Task -> prediction and truth, what makes our score, and the reference; None: it has none."""

    def smooth(*shape: int) -> np.ndarray:
        coarse = rng.random((HEIGHT // 32, WIDTH // 32, shape[0] if shape else 1), np.float32)
        return (
            np.atleast_3d(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)).transpose(2, 0, 1).copy()
        )

    far = 1 + 8 * np.clip(smooth(), 0, 1)
    true_depth = np.where(rng.random((HEIGHT, WIDTH)) < 0.05, 0, far[0] * 1.1).astype(np.float32)
    directions = smooth(3) - np.array([0.5, 0.5, 1.5], np.float32)[:, None, None]
    turned = directions + 0.1 * smooth(3)
    labels = np.floor(6.99 * np.clip(cv2.GaussianBlur(smooth()[0], (0, 0), 16), 0, 1)).astype(np.uint8)
    edges = ((labels != np.roll(labels, 1, 0)) | (labels != np.roll(labels, 1, 1))).astype(np.uint8)
    blurred = cv2.GaussianBlur(edges.astype(np.float32), (0, 0), 1.5)
    soft = (blurred / blurred.max())[None]
    salient, probability = (smooth()[0] > 0.5).astype(np.uint8), np.clip(smooth(), 0, 1)
    return {
        "depth": ((far, true_depth), DepthScore, lambda pair: depth(*pair)),
        "normals": ((turned, directions), NormalsScore, lambda pair: normals(*pair)),
        "edges, plainF": (
            *((soft, edges), lambda: EdgesScore(match=False)),
            lambda pair: marks(*pair, THRESHOLDS.astype(np.float32)),
        ),
        "saliency": (
            *((probability, salient), SaliencyScore),
            lambda pair: marks(*pair, KINDS["pooled_19"][0].astype(np.float32)),
        ),
        "human_parts": ((smooth(len(PARTS)), labels), lambda: ClassesScore(PARTS), lambda pair: parts(*pair)),
        "edges, odsF": ((soft, edges), EdgesScore, None),
    }


def time_values(*, rounds: int) -> list[dict[str, Any]]:
    """A row a task: images a second of ours and of the reference, and quartiles of its time by ours."""
    rows = []
    for task, (pair, make, reference) in subjects(np.random.default_rng(0)).items():
        score = make()
        ours, theirs = [], []
        for _ in range(rounds + 1):
            ours.append(_seconds(functools.partial(score.update, *pair, "an image")))
            if reference is not None:
                theirs.append(_seconds(functools.partial(reference, pair)))
        ours, theirs = ours[1:], theirs[1:]  # the first is a warm-up
        ratios = [b / a for a, b in zip(ours, theirs, strict=False)]
        rows.append(
            {
                "task": task,
                "size": list(pair[1].shape[-2:]),
                "images_per_s": 1 / float(np.median(ours)),
                "reference_images_per_s": 1 / float(np.median(theirs)) if theirs else None,
                "ratios": np.percentile(ratios, (25, 50, 75)).tolist() if ratios else None,
            }
        )
    return rows


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start
