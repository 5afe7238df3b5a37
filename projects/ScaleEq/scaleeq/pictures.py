"""Label maps as pictures, for all who draw or write them: in colours, for people, or as labels, for programs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from scaleeq.files import replacing

Color = tuple[int, int, int]

VOID_COLOR = (0, 0, 0)
UNKNOWN_COLOR = (128, 128, 128)  # of values: viridis has no grey, and no direction is (0, 0, 0)
NO_CLASS_COLOR = (255, 0, 255)
PNG_LEVEL = 3  # of zlib. Measured on a map of 1024 x 2048: 6 ms and 80 KB; level 1 123 KB, level 6 15 ms and 55 KB
JPEG_QUALITY = 90


def colorize(labels: np.ndarray, colors: Sequence[Sequence[int]], ignore_label: int) -> np.ndarray:
    """labels: (H, W) uint8 -> (H, W, 3) uint8 RGB; ignored pixels are black, labels without a colour magenta."""
    table = np.full((256, 1, 3), NO_CLASS_COLOR, np.uint8)
    table[: len(colors), 0] = np.reshape(colors, (-1, 3))
    table[ignore_label] = VOID_COLOR
    return cv2.LUT(cv2.merge([labels] * 3), table)  # five times faster than indexing


def palette(num: int) -> list[Color]:
    """(r, g, b) of so many labels, as unlike as their bits: PASCAL VOC's colours."""
    colors = []
    for label in range(num):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append((channels[0], channels[1], channels[2]))
    return colors


def heat(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """values: (H, W) -> (H, W, 3) uint8 RGB, from low (dark) to high (bright); by default those of the finite values.

    What is not finite is grey.
    """
    finite = np.isfinite(values)
    known = values[finite] if finite.any() else np.zeros(1)
    low, high = (known.min() if low is None else low), (known.max() if high is None else high)
    shares = (np.where(finite, values, low) - low) / max(high - low, 1e-12)
    grey = (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)
    picture = cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)[..., ::-1].copy()
    picture[~finite] = UNKNOWN_COLOR
    return picture


def confusion_picture(counts: np.ndarray, side: int = 480) -> np.ndarray:
    """counts: (K, K), pixels of a class, a row each, by what they were taken for -> (H, W, 3) uint8 RGB.

    Each row is a share of its class, from 0 (dark) to 1 (bright); of a class without a pixel it is grey. side: of the
    picture, pixels, about: cells are squares of whole pixels.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    cell = max(1, side // len(counts))
    return heat(shares, 0.0, 1.0).repeat(cell, axis=0).repeat(cell, axis=1)


def nice_end(value: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below a positive value: the end of a scale."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def directions(values: np.ndarray) -> np.ndarray:
    """values: (3, H, W) of unit vectors -> (H, W, 3) uint8 RGB: (n + 1) / 2; no direction is grey."""
    length = np.linalg.norm(values, axis=0)
    unit = values / np.maximum(length, 1e-12)
    picture = ((unit + 1) / 2 * 255).round().astype(np.uint8).transpose(1, 2, 0).copy()
    picture[length < 0.5] = UNKNOWN_COLOR
    return picture


def blend(image: np.ndarray, labels: np.ndarray, colors: Sequence[Sequence[int]], opacity: float = 0.5) -> np.ndarray:
    """The image with its labels' colours over it: (H, W, 3) uint8 in RGB.

    image: (h, w, 3) uint8 in RGB, resized to the labels where it has another size. labels: (H, W) uint8, of `colors`.
    """
    height, width = labels.shape
    if image.shape[:2] != labels.shape:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.addWeighted(image, 1 - opacity, colorize(labels, colors, ignore_label=255), opacity, 0)


def draw_objects(
    image: np.ndarray,
    *,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    names: Sequence[str] = (),
) -> np.ndarray:
    """Objects over an image, each class in its colour: (H, W, 3) uint8.

    image: (H, W, 3) uint8 in RGB. boxes: (N, 4), left, top, right, bottom in its pixels. labels: (N,). scores: (N,).
    masks: (N, H, W), 0 and 1. names: of the classes.
    """
    picture = image.copy()
    colors = palette(int(labels.max(initial=0)) + 2)[1:]
    for index, label in enumerate(labels.astype(int)):
        if masks is not None:
            inside = masks[index] > 0
            picture[inside] = (0.55 * picture[inside] + 0.45 * np.array(colors[label])).astype(np.uint8)
    size = max(image.shape[:2]) / 1600 + 0.15  # of letters
    for index, label in enumerate(labels.astype(int)):
        left, top, right, bottom = (round(float(value)) for value in boxes[index])
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colors[label], 1 + max(image.shape) // 600)
        words = names[label] if label < len(names) else str(label)
        words += "" if scores is None else f" {100 * scores[index]:.0f}"
        _write_on(picture, words, (left, top), size, colors[label])
    return picture


def draw_segments(image: np.ndarray, ids: np.ndarray, colors: Mapping[int, Sequence[int]]) -> np.ndarray:
    """Panoptic segments over an image, with their borders: (H, W, 3) uint8.

    image: (H, W, 3) uint8 in RGB. ids: (H, W), 0 is void. colors: of each id.
    """
    painted = np.zeros_like(image)
    for segment, color in colors.items():
        painted[ids == segment] = color
    picture = cv2.addWeighted(image, 0.4, painted, 0.6, 0)
    borders = np.zeros(ids.shape, bool)
    borders[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    borders[1:] |= ids[1:] != ids[:-1]
    picture[borders] = 255
    return picture


def _write_on(picture: np.ndarray, words: str, place: tuple[int, int], size: float, color: Sequence[int]) -> None:
    """Words in a box of the colour, whose lower left corner is at the place, or as near as it can be."""
    (width, height), below = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    left = max(0, min(place[0], picture.shape[1] - width))
    top = max(0, place[1] - height - below)
    cv2.rectangle(picture, (left, top), (left + width, top + height + below), color, -1)
    ink = (0, 0, 0) if sum(color) > 380 else (255, 255, 255)
    cv2.putText(picture, words, (left, top + height), cv2.FONT_HERSHEY_SIMPLEX, size, ink, 1, cv2.LINE_AA)


def ids_of_colors(picture: np.ndarray) -> np.ndarray:
    """picture: (H, W, 3) uint8 in RGB -> (H, W) int32: R + 256 G + 65536 B, as COCO's panoptic pictures hold ids."""
    red, green, blue = (picture[..., channel].astype(np.int32) for channel in range(3))
    return red | green << 8 | blue << 16


def colors_of_ids(ids: np.ndarray) -> np.ndarray:
    """ids: (H, W) -> (H, W, 3) uint8 in RGB, of which ids_of_colors makes them again.

    ValueError: an id outside 0 .. 2^24 - 1.
    """
    if ids.size and (ids.min() < 0 or ids.max() >= 1 << 24):
        raise ValueError(f"ids of a picture are 0 .. 16777215; these are {ids.min()} .. {ids.max()}")
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)


def write_labels(path: str | Path, labels: np.ndarray, colors: Sequence[Sequence[int]] = ()) -> None:
    """Write labels: (H, W) uint8 as PNG, whole or not at all; the same bytes for the same labels.

    colors: (r, g, b) of the labels from 0 on. The file then is a palette picture: people see colours, and a reader
    that does not turn them into RGB has the labels. Without colours it is a grey picture.
    """
    picture = Image.fromarray(labels)
    if colors:
        picture.putpalette([value for color in colors for value in color])
    _save_png(path, picture)


def write_png(path: str | Path, picture: np.ndarray) -> None:
    """Write picture: (H, W, 3) uint8 in RGB as PNG, whole or not at all."""
    _save_png(path, Image.fromarray(picture))


def write_jpeg(path: str | Path, image: np.ndarray) -> None:
    """Write image: (H, W, 3) uint8 in RGB as JPEG, whole or not at all."""
    with replacing(path) as part:
        Image.fromarray(image).save(part, format="jpeg", quality=JPEG_QUALITY)


def _save_png(path: str | Path, picture: Image.Image) -> None:
    with replacing(path) as part:
        picture.save(part, format="png", compress_level=PNG_LEVEL)
