"""Surface normals as a task: directions x to the right, y down, z into the scene.

The loss is that of ASTMT, MTI-Net and InvPT: the absolute differences of the three components after the prediction has
been brought to length 1, summed, a pixel; so it is three times a mean over elements. The gradient of a vector's
direction grows as 1 / length: predictions start at (0, 0, -1), towards the camera, instead of near 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from scaleeq.geometry import Geometry
from scaleeq.ops import resize
from scaleeq.pictures import Color, directions

from .base import Losses
from .mapped import MappedTask
from .metric import Metric
from .registry import register

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from scaleeq.evaluation.values import Score

_DEGREES, _SHARE = Metric(unit="degrees", higher_is_better=False, highest=180.0), Metric(unit="%", highest=100.0)
KNOWN_LENGTH = 0.5  # shorter true vectors are unknown
FACING = {
    "to the camera": (0, 0, -1),
    "to the right": (1, 0, 0),
    "to the left": (-1, 0, 0),
    "down": (0, 1, 0),
    "up": (0, -1, 0),
}


@register
class NormalsTask(MappedTask):
    """(3, H, W), of length 1. Targets are resized by nearest, so that they keep their length; a mirror turns x."""

    name = target_key = "normals"
    channels = 3
    geometry = Geometry(negated_x=(0,), negated_y=(1,))
    metrics = {  # noqa: RUF012 (as a task reads)
        "mean": _DEGREES,
        "median": _DEGREES,
        **dict.fromkeys(("below11.25", "below22.5", "below30"), _SHARE),
    }
    headline = "mean"
    initial_bias = (0.0, 0.0, -1.0)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> NormalsTask:
        return cls()

    def losses(self, prediction: torch.Tensor, targets: torch.Tensor, mean_count: torch.Tensor | None = None) -> Losses:
        """prediction: (N, 3, h, w), targets: (N, 3, H, W) -> {"loss_normals": ()}."""
        size = (targets.shape[-2], targets.shape[-1])
        errors = (F.normalize(resize(prediction.float(), size), dim=1) - targets).abs().sum(1)
        return {"loss_normals": (errors * known(targets)).sum() / self.divisor(targets, mean_count)}

    def count(self, target: torch.Tensor) -> torch.Tensor:
        """target: (..., 3, H, W) -> (), float64: pixels whose direction is known."""
        return known(target).sum().double()

    def settled(self, values: torch.Tensor) -> torch.Tensor:
        """values: (3, H, W), a mean of directions -> the direction, of length 1."""
        return F.normalize(values, dim=0)

    def legend(self) -> Mapping[str, Color]:
        """Words for directions that a surface may face."""
        pictures = {word: directions(np.array(each, float).reshape(3, 1, 1)) for word, each in FACING.items()}
        return {word: (int(r), int(g), int(b)) for word, [[(r, g, b)]] in pictures.items()}

    def score(self) -> Score:
        from scaleeq.evaluation.normals import NormalsScore

        return NormalsScore()


def known(normals: torch.Tensor) -> torch.Tensor:
    """normals: (..., 3, H, W) -> (..., H, W), bool."""
    return normals.square().sum(-3) > KNOWN_LENGTH**2
