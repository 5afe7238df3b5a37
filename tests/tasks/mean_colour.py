"""A dense task in one file: the mean colour around each pixel. Nothing else in the repository knows it.

Its truth needs no file: a box filter of the image, in shares of full brightness. Own design.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch

from scaleeq.engine import DatasetEvaluator, comm
from scaleeq.geometry import Geometry
from scaleeq.ops import resize
from scaleeq.tasks import Metric, Task, register

WINDOW = 9  # pixels, a side
UNKNOWN = -1.0


@register
class MeanColour(Task):
    """(3, H, W): red, green and blue in [0, 1], averaged over a window; trained by the absolute error."""

    name = target_key = "mean_colour"
    channels = 3
    geometry = Geometry(interpolation="bilinear", padding=UNKNOWN)
    metrics = {"mae": Metric(unit="shares of full brightness", higher_is_better=False)}  # noqa: RUF012 (as a task reads)
    headline = "mae"
    initial_bias = 0.5

    @classmethod
    def from_config(cls, cfg: Any) -> MeanColour:
        return cls()

    def read(self, record: dict[str, Any], image: np.ndarray) -> np.ndarray:
        """(H, W, 3) float32."""
        return cv2.blur(image.astype(np.float32) / 255, (WINDOW, WINDOW))

    def losses(self, prediction, targets, mean_count=None):
        """prediction: (N, 3, h, w), targets: (N, 3, H, W) -> {"loss_mean_colour": ()}."""
        errors = (resize(prediction.float(), targets.shape[-2:]) - targets).abs() * (targets != UNKNOWN)
        return {"loss_mean_colour": errors.sum() / self.divisor(targets, mean_count)}

    def count(self, target: torch.Tensor) -> torch.Tensor:
        return (target != UNKNOWN).sum().double()

    def evaluators(self, dataset_name: str, *, distributed: bool = True) -> list[DatasetEvaluator]:
        return [MeanAbsoluteError()]


class MeanAbsoluteError(DatasetEvaluator):
    """Over all pixels and channels of a data set."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sum, self.count = 0.0, 0

    def process(self, inputs, outputs) -> None:
        for sample, output in zip(inputs, outputs, strict=True):
            errors = (output["mean_colour"].cpu() - sample["mean_colour_truth"]).abs()
            self.sum, self.count = self.sum + float(errors.double().sum()), self.count + errors.numel()

    def evaluate(self):
        parts = comm.gather((self.sum, self.count))
        if not comm.is_main_process():
            return None
        total, count = (sum(each) for each in zip(*parts, strict=True))
        return {"mean_colour": {"mae": total / count if count else float("nan")}}
