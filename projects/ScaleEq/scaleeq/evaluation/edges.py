"""odsF and oisF of edges, in Python: matches within a tolerance, counted as BSDS's benchmark counts them.

Sources: Martin et al. 2004, the code of BSDS500 and SEISM (Pont-Tuset and Marques), Piotr Dollar's edges toolbox for
what is done before the thresholds: gradient orientation after a triangle filter, non-maximum suppression, borders
faded. A predicted and a true edge pixel match one to one within a share of the image's diagonal. Of all matchings of
least cost BSDS's costs make one with the most pairs the best, and only its size is counted: so the largest matching of
the graph of neighbours gives the same counts, without costs (a test compares it with scipy's assignment), and one graph
serves all thresholds: pixels come in the order of their probability, and the matching only grows.

Until they have been compared with MATLAB's on real pictures, call the numbers "odsF (python)". Without a tolerance, of
plain pixels, is plainF: another number, cheap enough for evaluations while training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from .saliency import above, f_measure
from .values import Count, Counts

VOID = 255
THRESHOLDS = np.array([0.001, *np.arange(1, 100) / 100, 0.999])  # SEISM's for HED
SMOOTHING_PX = 4  # of the triangle filter before orientations
NMS_RADIUS_PX, NMS_MARGIN_PX, NMS_FACTOR = 1, 5, 1.01
CNT_R, SUM_R, CNT_P, SUM_P = range(4)


class EdgesScore:
    """odsF, oisF and plainF in percent; with match False plainF alone.

    tolerance: of a match, a share of the image's diagonal.
    """

    def __init__(self, *, match: bool = True, tolerance: float = 0.0075) -> None:
        self.match, self.tolerance = match, tolerance
        self.note = f"odsF (python), matches within {tolerance:g} of the diagonal" if match else "plain pixels"
        size = len(THRESHOLDS)
        self._counts, self._best = np.zeros((size, 4), np.int64), np.zeros(4, np.int64)
        self._plain, self._images = np.zeros((size, 3), np.int64), 0

    def update(self, prediction: np.ndarray, truth: np.ndarray, source: str) -> None:
        """Count an image. prediction: (1, H, W), probabilities; truth: (H, W), 0, 1 or 255."""
        self._images += 1
        known, edges = truth != VOID, truth == 1
        probability = np.where(known, prediction[0], 0)
        predicted, right = above(probability[known], THRESHOLDS), above(probability[edges], THRESHOLDS)
        self._plain += np.stack([right, predicted, np.full_like(right, edges.sum())], axis=1)
        if self.match:
            counts = match_counts(suppressed(prediction[0]) * known, edges, self.tolerance)
            self._counts += counts
            self._best += counts[int(f_of(counts).argmax())]

    def counts(self) -> Counts:
        return {"counts": self._counts, "best": self._best, "plain": self._plain, "images": self._images}

    def results(self, counts: Mapping[str, Count]) -> dict[str, float]:
        right, predicted, true = counts["plain"].T
        plain = f_of(np.stack([right, true, right, predicted], axis=1))
        found = {"plainF": 100 * float(plain.max())}
        if self.match:
            matched = 100 * float(f_of(counts["counts"]).max()), 100 * float(f_of(counts["best"][None])[0])
            found = dict(zip(("odsF", "oisF"), matched, strict=True)) | found
        return found if counts["images"] else dict.fromkeys(found, float("nan"))


def ods_f(counts: np.ndarray) -> tuple[float, float]:
    """ODS and OIS F in [0, 1] of counts: (images, thresholds, 4), of cntR, sumR, cntP, sumP.

    ODS: the threshold that is best for all; OIS: each image's best. Counts are summed over images first, then F.
    """
    best = counts[np.arange(len(counts)), f_of(counts).argmax(axis=1)]
    return float(f_of(counts.sum(axis=0)).max()), float(f_of(best.sum(axis=0)[None])[0])


def f_of(counts: np.ndarray) -> np.ndarray:
    """F: (...) of counts: (..., 4); recall and precision are 0 of nothing."""
    whole = np.maximum(counts[..., [SUM_P, SUM_R]], 1)
    precision, recall = counts[..., CNT_P] / whole[..., 0], counts[..., CNT_R] / whole[..., 1]
    return f_measure(precision, recall)


def match_counts(edges: np.ndarray, truth: np.ndarray, tolerance: float) -> np.ndarray:
    """(thresholds, 4) int64: cntR, sumR, cntP, sumP of an image.

    edges: (H, W) in [0, 1], thin: predicted where they are above a threshold. truth: (H, W) bool. tolerance: a share of
    the diagonal.
    """
    counts = np.zeros((len(THRESHOLDS), 4), np.int64)
    counts[:, SUM_R] = np.count_nonzero(truth)
    places, targets = np.argwhere(edges > THRESHOLDS[0]), np.argwhere(truth)
    values = edges[tuple(places.T)]
    counts[:, SUM_P] = above(values, THRESHOLDS)
    if not len(places) or not len(targets):
        return counts
    # Most probable pixels first, so that each threshold has the first ones.
    order = np.argsort(-values, kind="stable")
    radius = tolerance * float(np.hypot(*edges.shape))
    neighbours = cKDTree(places[order]).query_ball_tree(cKDTree(targets), radius)
    sizes = np.array(matching_sizes(neighbours, len(targets)))
    counts[:, [CNT_R, CNT_P]] = sizes[counts[:, SUM_P], None]
    return counts


def matching_sizes(neighbours: Sequence[Sequence[int]], num_targets: int) -> list[int]:
    """How many pairs the largest matching of the first n places has, for n from 0 to all of them.

    neighbours: of each place, the targets that it may be matched with. Places come one after the other: each either
    adds a pair, by an augmenting path, or never will. Where there is no path, none of the targets that were reached
    has a way to a free one, nor will have: they are closed, so that no target is searched in vain twice.
    """
    owner, mine, closed = [-1] * num_targets, [-1] * len(neighbours), bytearray(num_targets)
    sizes = [0]
    for first in range(len(neighbours)):
        came_from: dict[int, int] = {}  # target -> place
        end = _free_target(neighbours, first, owner, closed, came_from)
        sizes.append(sizes[-1] + (end is not None))
        if end is None:
            for target in came_from:
                closed[target] = True
        while end is not None:  # along the path, each place takes the next target
            place = came_from[end]
            owner[end], mine[place], end = place, end, mine[place] if place != first else None
    return sizes


def _free_target(
    neighbours: Sequence[Sequence[int]], first: int, owner: list[int], closed: bytearray, came_from: dict[int, int]
) -> int | None:
    """A free target at the end of the shortest alternating path from a place, or None; fills came_from."""
    places = [first]
    for place in places:
        for target in neighbours[place]:
            if closed[target] or target in came_from:
                continue
            came_from[target] = place
            if owner[target] < 0:
                return target
            places.append(owner[target])
    return None


# --- before the thresholds ---


def suppressed(edges: np.ndarray) -> np.ndarray:
    """edges: (H, W) in [0, 1] -> the same where it is a maximum across the edge, else 0; faded at the borders."""
    edges = edges.astype(np.float32)
    angle = orientation(edges)
    height, width = edges.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    raised, kept = edges * np.float32(NMS_FACTOR), np.ones(edges.shape, bool)
    for step in (-NMS_RADIUS_PX, NMS_RADIUS_PX):
        across = y + step * np.sin(angle), x + step * np.cos(angle)
        kept &= raised >= map_coordinates(edges, across, order=1, mode="nearest")
    result = edges * kept
    for axis, size in enumerate(edges.shape):
        margin = min(NMS_MARGIN_PX, size // 2)
        place = np.arange(size)
        fade = np.minimum(np.minimum(place, size - 1 - place) / max(margin, 1), 1).astype(np.float32)
        result *= np.expand_dims(fade, 1 - axis)
    return result


def orientation(edges: np.ndarray) -> np.ndarray:
    """edges: (H, W) -> (H, W), the direction across the edge in radians, 0 to pi; x to the right, y down."""
    ramp = np.concatenate([np.arange(1, SMOOTHING_PX + 2), np.arange(SMOOTHING_PX, 0, -1)]) / (SMOOTHING_PX + 1) ** 2
    smooth = cv2.sepFilter2D(edges, cv2.CV_32F, ramp, ramp, borderType=cv2.BORDER_REFLECT)
    if min(smooth.shape) < 2:
        return np.zeros_like(smooth)
    down, right = np.gradient(smooth)
    right_right = np.gradient(right, axis=1)
    down_down, down_right = np.gradient(down, axis=0), np.gradient(right, axis=0)
    turn = np.where(down_right > 0, -1, 1)  # the toolbox has 0 where it is 0, and takes level edges for upright ones
    return np.mod(np.arctan(down_down * turn / (right_right + 1e-5)), np.pi)
