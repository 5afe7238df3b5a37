"""The boundary F-score of DAVIS (Perazzi et al. 2016), for classes as in Gated-SCNN (Takikawa et al. 2019).

Per image and class: the contour of a mask is the pixels that differ from their right, lower or lower-right neighbour;
precision is the share of the prediction's contour within a radius (Euclidean) of the truth's contour, recall the
reverse, F their harmonic mean. F is averaged over images, then over classes. As there, void pixels are background in
both maps. Deviations: radii are pixels, not shares of the diagonal; an image counts for a class only if the class has a
contour in its truth, and a class that has none in any image is left out. There, a class that is absent from truth and
prediction has F = 1, which is counted and lifts the score: with many rare classes it is near 100 whatever is predicted.

All classes are done at once: a class of the image's truth is one bit of a word, contours are lists of pixels with their
words, and pixels look around themselves in growing circles until all their bits are found. Memory is one word a pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from .parts import FIXED_POINT, Sample

WORD_BITS = 32
BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.int64)


class BoundaryFScore:
    """boundary_F_{r}px for each radius r, and boundary_F, their mean."""

    note = (
        "boundary F-score: mean over images whose truth shows a contour of the class, then over classes; void is "
        "background in both"
    )

    def __init__(
        self,
        *,
        num_classes: int,
        ignore_label: int = 255,
        radii_px: Sequence[int] = (3, 5, 8, 12),
    ) -> None:
        """
        radii_px: how far apart contours may lie, pixels, ascending.
        """
        if not radii_px or list(radii_px) != sorted(set(radii_px)) or radii_px[0] < 0:
            raise ValueError(f"radii are ascending whole pixels, not {radii_px}")
        self.num_classes = num_classes
        self.ignore_label = ignore_label
        self.radii_px = tuple(radii_px)
        self._sums = np.zeros((len(radii_px), num_classes), np.int64)
        self._images = np.zeros(num_classes, np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray, sample: Sample) -> None:
        """Count an image: prediction and truth (H, W) uint8, checked already."""
        truth, prediction = without_void(truth, prediction, self.ignore_label)
        present = np.flatnonzero(cv2.calcHist([truth], [0], None, [self.num_classes], [0, self.num_classes]))
        reach = self.radii_px[-1]
        blocks = [changing_blocks(labels, reach) for labels in (truth, prediction)]
        size = (truth.shape[0] + 2 * reach) * (truth.shape[1] + 2 * reach)
        # A word of classes at a time.
        for start in range(0, len(present), WORD_BITS):
            classes = present[start : start + WORD_BITS]
            # Contours, as lists and as maps.
            contours = [contour_words(corners, classes) for _, corners in blocks]
            maps = [np.zeros(size, np.uint32) for _ in blocks]
            for words, (pixels, _), contour_map in zip(contours, blocks, maps, strict=True):
                contour_map[pixels] = words
            # Each against the other's map.
            row = truth.shape[1] + 2 * reach
            near = [
                count_near(blocks[one][0], contours[one], maps[1 - one], row, self.radii_px)[:, : len(classes)]
                for one in (0, 1)
            ]
            totals = [count_bits(words)[: len(classes)] for words in contours]
            self._add(classes, near, totals)

    def _add(self, classes: np.ndarray, near: list[np.ndarray], totals: list[np.ndarray]) -> None:
        """near: 2 x (radii, classes), totals: 2 x (classes,), contour pixels of truth and prediction."""
        recall, precision = (part / np.maximum(1, total) for part, total in zip(near, totals, strict=True))
        both = precision + recall
        score = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
        counted = totals[0] > 0
        self._images[classes[counted]] += 1
        self._sums[:, classes[counted]] += np.rint(score[:, counted] * FIXED_POINT).astype(np.int64)

    def counts(self) -> dict[str, np.ndarray]:
        """ "boundary_F": (radii, K), sums of F in fixed point; "boundary_F_images": (K,), images of each class."""
        return {"boundary_F": self._sums, "boundary_F_images": self._images}

    def results(self, counts: Mapping[str, np.ndarray]) -> dict[str, float]:
        """In percent; NaN if all classes are left out."""
        images = counts["boundary_F_images"]
        scores = counts["boundary_F"][:, images > 0] / FIXED_POINT / images[images > 0]
        values = [100 * float(row.mean()) if len(row) else float("nan") for row in scores]
        named = {f"boundary_F_{radius}px": value for radius, value in zip(self.radii_px, values, strict=True)}
        return named | {"boundary_F": float(np.mean(values))}


def without_void(truth: np.ndarray, prediction: np.ndarray, ignore_label: int) -> tuple[np.ndarray, np.ndarray]:
    """Both maps, copied, with 255 at the pixels that the truth leaves void.

    truth, prediction: (H, W) uint8.
    """
    void = byte_mask(truth == ignore_label)
    return truth | void, prediction | void


def byte_mask(condition: np.ndarray) -> np.ndarray:
    """255 where the condition: bool is true, else 0, uint8. (cv2.compare takes tiny arrays for scalars.)"""
    return np.negative(condition.view(np.uint8))  # -1 is 255


def changing_blocks(labels: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that differ from their right, lower or lower-right neighbour, and these four labels.

    labels: (H, W) uint8; beyond its end the last row and column repeat.
    Returns pixels: (N,) intp, indexes into a flat map with that margin on all sides, and corners: (4, N) uint8.
    """
    width = labels.shape[1]
    # Compare with three neighbours.
    padded = cv2.copyMakeBorder(labels, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    views = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    change = views[0] != views[1]
    for other in views[2:]:
        change |= views[0] != other
    pixels = np.flatnonzero(change)
    rows = pixels // width
    flat, here = padded.ravel(), pixels + rows  # of the padded map, one column wider
    corners = np.stack([flat[here + step] for step in (0, 1, width + 1, width + 2)])
    return pixels + margin + (rows + margin) * 2 * margin + margin * width, corners


def contour_words(corners: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(N,) uint32, bit i set where the contour of classes[i] passes: some of the four labels are that class, not all.

    corners: (4, N) uint8. classes: up to 32.
    """
    bit_of = np.zeros(256, np.uint32)
    bit_of[classes] = np.uint32(1) << np.arange(len(classes), dtype=np.uint32)
    words = bit_of[corners]
    return np.bitwise_or.reduce(words) & ~np.bitwise_and.reduce(words)


def count_near(
    pixels: np.ndarray, words: np.ndarray, others: np.ndarray, row: int, radii_px: Sequence[int]
) -> np.ndarray:
    """(radii, 32) int64: for each radius and bit, the set bits for which `others` has that bit within the radius.

    pixels, words: (N,), where and which bits. others: flat uint32 map with rows of `row` words.
    """
    total = count_bits(words)
    near = []
    for radius, offsets in rings(radii_px[-1]):
        kept = np.flatnonzero(words)
        pixels, words = pixels[kept], words[kept]
        seen = np.zeros_like(words)
        for down, right in offsets:
            seen |= others[pixels + (down * row + right)]
        words &= ~seen
        if radius in radii_px:
            near.append(total - count_bits(words))
    return np.stack(near)


def count_bits(words: np.ndarray) -> np.ndarray:
    """(32,) int64: how many of the words: (N,) uint32 have each bit."""
    parts = words.astype("<u4", copy=False).view(np.uint8).reshape(-1, WORD_BITS // 8)
    return np.concatenate([np.bincount(part, minlength=256) @ BITS_OF_BYTE for part in parts.T])


@functools.cache
def rings(reach: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """(radius, offsets (down, right)) for radius 0 .. reach: those farther than radius - 1 and at most radius away."""
    span = range(-reach, reach + 1)

    def ring(radius: int) -> Iterator[tuple[int, int]]:
        for down in span:
            for right in span:
                squared = down * down + right * right
                if squared <= radius * radius and (radius == 0 or squared > (radius - 1) ** 2):
                    yield down, right

    return [(radius, list(ring(radius))) for radius in range(reach + 1)]
