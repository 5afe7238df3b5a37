"""What people see of a task's values, and what the colours mean.

One colour map and fixed ends of it for truth and prediction, for all images and at every time of a training: two
pictures of depth beside each other can be compared. What is unknown is grey, which neither the colour map nor a
direction has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scaleeq.pictures import UNKNOWN_COLOR, Color, colorize, directions, heat, palette

if TYPE_CHECKING:
    import torch

    from scaleeq.geometry import Geometry

VOID = 255


@dataclass(frozen=True)
class Scale:
    """The values at the ends of the colour map of a task's pictures; what lies beyond has the colour of the end."""

    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True)
class TaskView:
    """One task of one image, for people. A picture is (H, W, 3) uint8 in RGB.

    truth: None: there is none. legend: what colours mean. score: of this image alone, such as "depth/rmse 0.43 m".
    """

    prediction: np.ndarray
    truth: np.ndarray | None = None
    scale: Scale | None = None
    legend: Mapping[str, Color] = field(default_factory=dict)
    score: str = ""

    @property
    def has_unknown(self) -> bool:
        """Whether a pixel of it is grey, for which nothing is known."""
        known = (picture for picture in (self.truth, self.prediction) if picture is not None)
        return any((picture == UNKNOWN_COLOR).all(-1).any() for picture in known)


def draw(
    values: torch.Tensor,
    *,
    geometry: Geometry,
    scores: bool,
    num_labels: int,
    scale: Scale | None = None,
    unknown: float | None = None,
) -> np.ndarray:
    """values: (H, W) or (C, H, W), a truth or a finished prediction -> (H, W, 3) uint8 in RGB.

    Labels in PASCAL VOC's colours, one channel as heat, three as directions where a flip negates one of them, or else
    as red, green and blue in [0, 1].

    scores: whether a prediction is of num_labels scores, of which the best one's label is drawn.
    scale: of heat; None: from the lowest to the highest value. unknown: the value that says so.
    """
    array = values.detach().float().cpu().numpy()
    if array.ndim == 3 and len(array) > 1 and (scores or len(array) != 3):
        array = array.argmax(0)
    if geometry.labels or scores:
        picture = colorize(array.astype(np.uint8), palette(num_labels), VOID)
        picture[array == VOID] = UNKNOWN_COLOR  # the first label is black
        return picture
    if array.ndim == 2 or len(array) == 1:
        array = array.reshape(array.shape[-2:])
        array = array if unknown is None else np.where(array == unknown, np.nan, array)
        return heat(array) if scale is None else heat(array, scale.low, scale.high)
    if geometry.negated_x:
        return directions(array)
    return (np.clip(array, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0).copy()
