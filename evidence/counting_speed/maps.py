"""Label maps for the benchmark of the evaluators, like real ones in what decides how fast they are counted.

Measured means of runs along rows: truths 52 px (of CamVid 40, ADE20K 42 to 142), pairs of truth and prediction 23 px.
"""

from __future__ import annotations

import cv2
import numpy as np

from scaleeq.evaluation.cityscapes import LABEL_IDS, WITH_INSTANCES

VOID = 255
IGNORED = 0.08  # share of the regions
CLASSES_AN_IMAGE = (14, 20)
INSTANCES_AN_IMAGE = 40

Pair = tuple[np.ndarray, np.ndarray]  # prediction and truth: (H, W) uint8


def label_map(rng: np.random.Generator, height: int, width: int, num_classes: int, *, pixels: int = 5000) -> np.ndarray:
    """(H, W) uint8: wavy Voronoi regions of about so many pixels, of 14 to 20 classes and 8 % void."""
    count = max(1, height * width // pixels)
    seeds = np.ones((height, width), np.uint8)
    seeds.ravel()[rng.choice(height * width, count, replace=False)] = 0
    _, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    classes = rng.choice(num_classes, min(num_classes, int(rng.integers(*CLASSES_AN_IMAGE, endpoint=True))), False)
    label_of = rng.choice(classes, cells.max() + 1).astype(np.uint8)
    label_of[rng.random(len(label_of)) < IGNORED] = VOID
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = x + 5 * np.sin(y / 11) + 2 * np.sin(y / 3.7), y + 5 * np.sin(x / 9) + 2 * np.sin(x / 4.1)
    return cv2.remap(label_of[cells], *waves, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)


def predicted(rng: np.random.Generator, truth: np.ndarray, num_classes: int, *, noise: bool = False) -> np.ndarray:
    """(H, W) uint8: the truth moved by 3 px with some other regions; or pure noise, as of an untrained network."""
    height, width = truth.shape
    if noise:
        return rng.integers(0, num_classes, truth.shape, np.uint8)
    guess = label_map(rng, height, width, num_classes)
    guess[guess == VOID] = 0
    moved = np.roll(truth, (1, 3), (0, 1))
    wrong = (cv2.resize(rng.random((12, 16), np.float32), (width, height)) > 0.8) | (moved == VOID)
    return np.where(wrong, guess, moved)


def label_pair(rng: np.random.Generator, height: int, width: int, num_classes: int, *, noise: bool = False) -> Pair:
    truth = label_map(rng, height, width, num_classes)
    return predicted(rng, truth, num_classes, noise=noise), truth


def scene_with_instances(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cityscapes' truth: (H, W) uint8 of 19 classes and void, and its instances: (H, W) int32, labelId * 1000 + number.

    Rectangles of up to a fifth of the height on a map of the classes without instances.
    """
    truth = label_map(rng, height, width, int(WITH_INSTANCES[0]))
    label_ids = np.zeros(256, np.int32)
    label_ids[: len(LABEL_IDS)] = LABEL_IDS
    instances = label_ids[truth]
    for number in range(INSTANCES_AN_IMAGE):
        label = int(rng.choice(WITH_INSTANCES))
        size_y = int(rng.integers(max(2, height // 100), max(3, height // 5)))
        size_x = max(1, min(width, int(size_y * rng.uniform(0.4, 1.8))))
        y, x = int(rng.integers(0, height - size_y + 1)), int(rng.integers(0, width - size_x + 1))
        truth[y : y + size_y, x : x + size_x] = label
        instances[y : y + size_y, x : x + size_x] = LABEL_IDS[label] * 1000 + number
    return truth, instances
