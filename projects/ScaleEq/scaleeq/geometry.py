"""What resizing, padding and flipping an image do to a map of values that belong to its pixels.

Everywhere values: (H, W) or (H, W, C), of any type; they are never changed, results may be views of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from scaleeq.choices import one_of

OF_VIEW = "of_view"  # in a sample: values are wanted as of the picture in it, whatever size the result has
INTERPOLATIONS = {"nearest": cv2.INTER_NEAREST_EXACT, "bilinear": cv2.INTER_LINEAR}  # pixel centres at halves


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How one kind of values follows its image: labels, metres, directions, colours.

    interpolation: of INTERPOLATIONS.
    padding: what stands beside the image, where nothing is known: one number, or one a channel.
    labels: values are class indexes: a data set may exchange some in a mirror, and a crop may limit their shares.
    zoom_power: enlarging the image by a factor multiplies the values with this power of it; -1 for depth, for what is
        twice as large in the image is half as far away.
    negated_x, negated_y: channels whose sign a horizontal, or a vertical, flip turns: of directions.
    """

    interpolation: str = "nearest"
    padding: float | Sequence[float] = 0.0
    labels: bool = False
    zoom_power: float = 0.0
    negated_x: Sequence[int] = ()
    negated_y: Sequence[int] = ()

    def __post_init__(self) -> None:
        one_of(self.interpolation, INTERPOLATIONS, key="interpolation")
        padding = np.atleast_1d(self.padding)
        turned = [channel for channel in (*self.negated_x, *self.negated_y) if padding[channel % len(padding)]]
        if turned:  # a flip after the padding would make another value of it
            raise ValueError(
                f"padding is {self.padding}; channels that a flip negates, here {turned}, are padded with 0"
            )

    def resized(self, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """values at shape = (height, width)."""
        if values.shape[:2] == shape:
            return values
        result = cv2.resize(values, (shape[1], shape[0]), interpolation=INTERPOLATIONS[self.interpolation])
        result = result.reshape(*shape, *values.shape[2:])  # OpenCV drops a single channel
        if not self.zoom_power:
            return result
        return (result * self.factor(values.shape, shape)).astype(values.dtype)

    def factor(self, seen: Sequence[int], shown: Sequence[int]) -> float:
        """What values of a picture of size seen = (height, width, ...) are multiplied with for it at size shown."""
        return math.sqrt(shown[0] * shown[1] / (seen[0] * seen[1])) ** self.zoom_power if self.zoom_power else 1.0

    def padded(self, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """values with at least shape = (height, width), filled up at the bottom and at the right."""
        height, width = values.shape[:2]
        if height >= shape[0] and width >= shape[1]:
            return values
        result = np.empty((max(height, shape[0]), max(width, shape[1]), *values.shape[2:]), values.dtype)
        result[...] = self.padding
        result[:height, :width] = values
        return result

    def flipped(self, values: np.ndarray, direction: str) -> np.ndarray:
        """values of the mirror image; direction: "horizontal" or "vertical"."""
        result = np.flip(values, 1 if direction == "horizontal" else 0)
        negated = list(self.negated_x if direction == "horizontal" else self.negated_y)
        if negated:
            result = result.copy()
            result[..., negated] *= -1
        return result


class ObjectGeometry(Geometry):
    """How the objects of an image follow it: they know it themselves (scaleeq.data.instances)."""

    def resized(self, values: Any, shape: tuple[int, int]) -> Any:
        return values.resized(shape)

    def padded(self, values: Any, shape: tuple[int, int]) -> Any:
        return values.padded(shape)

    def flipped(self, values: Any, direction: str) -> Any:
        return values.flipped(direction)


class Map(NamedTuple):
    """Values of an image's pixels, and how they follow the image."""

    values: np.ndarray
    geometry: Geometry
