"""Panels of a sheet, as pixels: sizes, error maps, heat maps, arrows. Pure: numpy and OpenCV.

Labels are resized by nearest alone, so that a class has its exact colour at every size.
"""

from __future__ import annotations

import cv2
import numpy as np

RIGHT, WRONG, VOID = 0, 1, 2  # of an error map
WRONG_COLOR, VOID_GREY = (255, 40, 40), 128
DIMMED = 0.35  # of the brightness; the result is below VOID_GREY, so that the three are told apart
ENDS_PERCENT = (0.5, 99.5)  # percentiles at the ends of a colour bar: single spikes do not darken the rest
HEAT_OPACITY = 0.65  # over an image
ARROWS = 20  # along the longer side
ARROW_COLOR = (255, 255, 255)

Size = tuple[int, int]


def fitted(size: Size, side: int) -> Size:
    """(height, width) whose longer side is at most `side`: reduced, or enlarged by a whole factor where it is small."""
    longest = max(size)
    if longest <= side:
        return size[0] * (side // longest), size[1] * (side // longest)
    return max(1, round(size[0] * side / longest)), max(1, round(size[1] * side / longest))


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """image: (H, W, 3) uint8 -> (*size, 3): means of areas, or whole pixels enlarged."""
    smaller = size[0] < image.shape[0]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_NEAREST_EXACT)


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """labels: (H, W) uint8 -> (*size), by nearest."""
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def error_map(prediction: np.ndarray, truth: np.ndarray, ignore_label: int) -> np.ndarray:
    """prediction, truth: (H, W) uint8 -> (H, W) uint8 of RIGHT, WRONG and VOID (ignored in the truth)."""
    errors = (prediction != truth).astype(np.uint8)
    errors[truth == ignore_label] = VOID
    return errors


def paint_errors(image: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """image: (H, W, 3) uint8; errors: (H, W) of error_map -> (H, W, 3): right dimmed, wrong red, void grey."""
    painted = (_grey(image) * DIMMED).astype(np.uint8)
    painted[errors == WRONG] = WRONG_COLOR
    painted[errors == VOID] = VOID_GREY
    return painted


def heat_ends(values: np.ndarray) -> tuple[float, float]:
    """What the ends of the colour bar of values: (H, W) mean."""
    low, high = map(float, np.percentile(values, ENDS_PERCENT))
    return (low, high) if high - low > 1e-5 * max(abs(low), abs(high)) else (low, low)  # not the noise of rounding


def paint_heat(values: np.ndarray, ends: tuple[float, float], image: np.ndarray | None = None) -> np.ndarray:
    """values: (H, W) -> (H, W, 3) uint8, dark blue to yellow; over image: (H, W, 3) uint8, where there is one."""
    low, high = ends
    shares = (values - low) / (high - low) if high > low else np.full(values.shape, 0.5)
    heat = cv2.applyColorMap((255 * np.clip(np.nan_to_num(shares), 0, 1)).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    heat = np.ascontiguousarray(heat[:, :, ::-1])
    return heat if image is None else cv2.addWeighted(_grey(image), 1 - HEAT_OPACITY, heat, HEAT_OPACITY, 0)


def color_bar(width: int, height: int) -> np.ndarray:
    """The colours of paint_heat from low to high: (height, width, 3) uint8."""
    return paint_heat(np.tile(np.linspace(0, 1, width), (height, 1)), (0, 1))


def arrow_scale(offsets: np.ndarray) -> float:
    """The factor by which arrows are enlarged for the longest to reach the next arrow, at most 100; 0: no arrow.

    offsets: (2, H, W), (dy, dx) in pixels of the picture.
    """
    longest = float(np.percentile(np.hypot(*offsets), ENDS_PERCENT[1]))
    spacing = max(offsets.shape[1:]) / ARROWS
    return min(100.0, spacing / longest) if longest > 0.01 * spacing else 0.0


def paint_arrows(picture: np.ndarray, offsets: np.ndarray, scale: float) -> np.ndarray:
    """A copy of picture: (H, W, 3) uint8 with arrows of offsets: (2, H, W), (dy, dx) in its pixels, times `scale`."""
    picture = picture.copy()
    step = max(1, max(offsets.shape[1:]) // ARROWS)
    for y in range(step // 2, offsets.shape[1], step):
        for x in range(step // 2, offsets.shape[2], step):
            dy, dx = scale * offsets[:, y, x]
            if max(abs(dy), abs(dx)) >= 1:
                cv2.arrowedLine(picture, (x, y), (round(x + dx), round(y + dy)), ARROW_COLOR, 1, cv2.LINE_AA, 0, 0.3)
    return picture


def _grey(image: np.ndarray) -> np.ndarray:
    """image: (H, W, 3) uint8 -> the same in grey."""
    return cv2.merge([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)] * 3)
