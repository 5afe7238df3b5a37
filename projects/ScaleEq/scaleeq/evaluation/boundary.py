"""Boundary metrics of the same pass: trimap mIoU and boundary IoU (the boundary F-score is in `boundary_f_score`).

Trimap mIoU (Kohli et al. 2009; Krähenbühl and Koltun 2011; DeepLab): one confusion matrix over the data set, restricted
to the pixels near a label change of the truth. An edge pixel is one with a 4-neighbour of another class; void is no
class, so that a change between a class and void is no edge. A pixel is within d px where 1 + its Euclidean distance to
the nearest edge pixel is at most d: along a straight edge that is d pixels on each side. Void pixels are not counted.

Boundary IoU (Cheng et al. 2021, arXiv 2103.16562), for classes instead of instances: the IoU of the pixels of a class
that are near its border, in truth and prediction each; intersections and unions are summed over the data set. Near is
2 % of the image's diagonal, rounded, in a square window. A pixel is near its class's border exactly where the window
around it holds two labels or leaves the image, hence a minimum and a maximum filter serve any number of classes. Void
is a label of its own, in both maps: pixels that the truth leaves void belong to no class of the prediction either.
Deviation from Detectron2's evaluator, which erodes the label map: there the "boundary" holds differences of labels.

All counts are int64 integers; results do not depend on the order of images or the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from scaleeq.choices import one_of

from .boundary_f_score import BoundaryFScore, byte_mask, without_void
from .confusion import ABSENT_POLICIES, ConfusionMatrix, mean, metrics_from_counts
from .parts import Part, Sample

WIDTHS_PX = (3, 5, 8, 12)
DIAGONAL_SHARE = 0.02  # boundary-iou-api's width of the band
VOID = 255  # in here, whatever the ignore label is: never a class, and what any label becomes by "or" with a mask
MAX_DISTANCE_PX = 15  # its square fits into a byte
STRIPE_ROWS = 64


def boundary_parts(num_classes: int, ignore_label: int = 255, absent: str = "exclude") -> list[Part]:
    """Trimap mIoU, boundary F-score and boundary IoU.

    num_classes, ignore_label: as for the confusion matrix. absent: the policy of the mean IoUs for absent classes.
    """
    return [
        TrimapIoU(num_classes=num_classes, ignore_label=ignore_label, absent=absent),
        BoundaryFScore(num_classes=num_classes, ignore_label=ignore_label, radii_px=WIDTHS_PX),
        BoundaryIoU(num_classes=num_classes, ignore_label=ignore_label, absent=absent),
    ]


class TrimapIoU:
    """mIoU near the label changes of the truth: trimap_mIoU_{d}px for each width d, and trimap_mIoU, their mean."""

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_label: int = 255,
        absent: str = "exclude",
        widths_px: Sequence[int] = WIDTHS_PX,
    ) -> None:
        """
        absent: the policy for absent classes, of each width by itself.
        widths_px: pixels on each side of a label change, 1 .. 16.
        """
        one_of(absent, ABSENT_POLICIES, key="the policy for absent classes")
        if not widths_px or not all(1 <= width <= MAX_DISTANCE_PX + 1 for width in widths_px):
            raise ValueError(f"widths of a trimap are 1 .. {MAX_DISTANCE_PX + 1} px, not {widths_px}")
        self.ignore_label = ignore_label
        self.absent = absent
        self.widths_px = tuple(widths_px)
        self.note = (
            f"trimap: within {', '.join(map(str, widths_px))} px on each side of a change between two classes of the "
            "truth; borders to void are no change"
        )
        self._matrices = [ConfusionMatrix(num_classes=num_classes, ignore_label=VOID) for _ in widths_px]

    def update(self, prediction: np.ndarray, truth: np.ndarray, sample: Sample) -> None:
        """Count an image: prediction and truth (H, W) uint8, checked already."""
        truth, _ = without_void(truth, prediction, self.ignore_label)
        edges = edge_pixels(truth)
        if not edges.any():
            return
        squared = squared_distance(edges, max(self.widths_px) - 1)
        for matrix, width in zip(self._matrices, self.widths_px, strict=True):
            matrix.update(prediction, truth | byte_mask(squared > (width - 1) ** 2))

    def counts(self) -> dict[str, np.ndarray]:
        """ "trimap": (widths, K, K), at [width, truth, prediction]."""
        return {"trimap": np.stack([matrix.counts for matrix in self._matrices])}

    def results(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """In percent; NaN where no pixel is within a width."""
        values = [100 * metrics_from_counts(matrix, absent=self.absent).mean_iou for matrix in counts["trimap"]]
        named = {f"trimap_mIoU_{width}px": value for width, value in zip(self.widths_px, values, strict=True)}
        return named | {"trimap_mIoU": float(np.mean(values))}


class BoundaryIoU:
    """Boundary IoU, the mean over the classes: boundary_IoU."""

    note = "boundary IoU: bands of 2 % of the diagonal in truth and prediction; void is a label of its own in both"

    def __init__(self, *, num_classes: int, ignore_label: int = 255, absent: str = "exclude") -> None:
        """absent: the policy for classes without a pixel in any band of the truth."""
        one_of(absent, ABSENT_POLICIES, key="the policy for absent classes")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.absent = absent
        self._counts = np.zeros((3, num_classes), np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray, sample: Sample) -> None:
        """Count an image: prediction and truth (H, W) uint8, checked already."""
        truth, prediction = without_void(truth, prediction, self.ignore_label)
        distance = band_width_px(*truth.shape)
        in_truth, in_prediction = label_band(truth, distance), label_band(prediction, distance)
        right = in_truth & in_prediction & (truth == prediction)
        pairs = ((truth, right), (truth, in_truth), (prediction, in_prediction))
        for counts, (labels, mask) in zip(self._counts, pairs, strict=True):
            counts += count_labels(labels, mask, self.num_classes)

    def counts(self) -> dict[str, np.ndarray]:
        """ "boundary": (3, K), pixels of each class in both bands, in the truth's and in the prediction's."""
        return {"boundary": self._counts}

    def results(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """In percent; NaN if all classes are left out."""
        both, in_truth, in_prediction = counts["boundary"]
        matrix = np.zeros([self.num_classes + 1] * 2, np.int64)  # with one class more: in the other map's band alone
        matrix[:-1, :-1] = np.diag(both)
        matrix[:-1, -1], matrix[-1, :-1] = in_truth - both, in_prediction - both
        iou = metrics_from_counts(matrix, absent=self.absent).iou[:-1]
        return {"boundary_IoU": 100 * mean(iou)}


def edge_pixels(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels with a 4-neighbour of another class; void pixels are no neighbours and no edges.

    labels: (H, W) uint8, void is 255.
    """
    edges = np.zeros(labels.shape, bool)
    valid = labels != VOID
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        change = (labels[one] != labels[other]) & valid[one] & valid[other]
        edges[one] |= change
        edges[other] |= change
    return edges


def squared_distance(mask: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) uint8: the squared Euclidean distance to the nearest true pixel; beyond reach: any more than reach².

    mask: (H, W) bool. reach: pixels, at most 15. By rows, then by columns, as any exact transform; but bounded, so that
    bytes and stripes that stay in the cache do. Several times faster than OpenCV's.
    """
    squared = np.empty(mask.shape, np.uint8)
    for top in range(0, len(mask), STRIPE_ROWS):
        above = min(top, reach)
        stripe = np.where(mask[top - above : top + STRIPE_ROWS + reach], np.uint8(0), np.uint8(255))
        for axis in (1, 0):
            _spread(stripe, reach, axis)
        squared[top : top + STRIPE_ROWS] = stripe[above : above + STRIPE_ROWS]
    return squared


def _spread(squared: np.ndarray, reach: int, axis: int) -> None:
    """In place: the least of the values along the axis, each plus the square of how far away it is."""
    source, moved = squared.copy(), np.empty_like(squared)
    for step in range(1, min(reach + 1, squared.shape[axis])):
        moved.fill(step * step)
        cv2.add(source, moved, moved)  # at most 255
        low, high = [np.s_[:, :-step], np.s_[:, step:]] if axis else [np.s_[:-step], np.s_[step:]]
        cv2.min(squared[low], moved[high], squared[low])
        cv2.min(squared[high], moved[low], squared[high])


def band_width_px(height: int, width: int) -> int:
    """2 % of the diagonal, rounded, at least 1."""
    return max(1, round(DIAGONAL_SHARE * float(np.hypot(height, width))))


def label_band(labels: np.ndarray, distance: int) -> np.ndarray:
    """(H, W) bool: where the window of 2 distance + 1 px around a pixel holds two labels or leaves the image.

    labels: (H, W) uint8.
    """
    window = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    band = cv2.erode(labels, window) != cv2.dilate(labels, window)
    band[:distance] = band[-distance:] = True
    band[:, :distance] = band[:, -distance:] = True
    return band


def count_labels(labels: np.ndarray, mask: np.ndarray, num_classes: int) -> np.ndarray:
    """(K,) int64: pixels of each class where the mask: (H, W) bool is true.

    labels: (H, W) uint8.
    """
    return np.bincount((labels | byte_mask(~mask)).ravel(), minlength=VOID + 1)[:num_classes]
