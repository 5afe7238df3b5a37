"""Depth as a task: metres for each pixel, the absolute error as its loss.

As in the work on several tasks (MTI-Net, ATRC, InvPT), what is enlarged by a factor is that much nearer, so that depth
is divided by the zoom. (Of a pinhole camera the focal length grows with the image and depth stays: both cannot be had
with fixed weights, and normals follow the camera.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scaleeq.geometry import Geometry
from scaleeq.ops import resize
from scaleeq.pictures import nice_end

from .base import Losses
from .mapped import MappedTask
from .metric import Metric
from .registry import register
from .views import Scale

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from scaleeq.evaluation.values import Score

_METRES, _SHARE = Metric(unit="m", higher_is_better=False), Metric(unit="%", highest=100.0)
_ERROR = Metric(higher_is_better=False)


@register
class DepthTask(MappedTask):
    """(1, H, W) in metres. A true depth of 0 is unknown.

    Args:
        mean: of the training set in metres, where predictions start: from 0 a network needs many iterations to it.
        crop, closest, farthest: which pixels are scored, as in TEST.DEPTH.

    Pictures reach from 0 to `farthest`, or else to twice the mean, rounded up to 1, 2 or 5 times a power of ten.
    """

    name = target_key = "depth"
    channels = 1
    geometry = Geometry(zoom_power=-1.0)
    metrics = {  # noqa: RUF012 (as a task reads)
        "rmse": _METRES,
        "absRel": _ERROR,
        "sqRel": _METRES,
        "RMSElog": _ERROR,
        "SILog": Metric(unit="100 log(m)", higher_is_better=False),
        **dict.fromkeys(("delta1", "delta2", "delta3"), _SHARE),
    }
    headline = "rmse"
    unknown = 0.0

    def __init__(self, *, mean: float = 3.0, crop: str = "", closest: float = 0.0, farthest: float = 0.0) -> None:
        super().__init__()
        self.initial_bias = mean
        self.scale = Scale(0.0, farthest or nice_end(2 * mean) if farthest or mean > 0 else 10.0, "m")
        self.limits = {"crop": crop, "closest": closest, "farthest": farthest}

    @classmethod
    def from_config(cls, cfg: CfgNode) -> DepthTask:
        """ValueError: limits of TEST.DEPTH that cannot be meant."""
        keys = cfg.TEST.DEPTH
        task = cls(mean=cfg.MODEL.DEPTH.MEAN, crop=keys.CROP, closest=keys.MIN, farthest=keys.MAX)
        task.score()
        return task

    def losses(self, prediction: torch.Tensor, targets: torch.Tensor, mean_count: torch.Tensor | None = None) -> Losses:
        """prediction: (N, 1, h, w), targets: (N, H, W) metres -> {"loss_depth": ()}, the mean error in metres."""
        errors = (resize(prediction.float(), (targets.shape[-2], targets.shape[-1]))[:, 0] - targets).abs()
        return {"loss_depth": (errors * (targets > 0)).sum() / self.divisor(targets, mean_count)}

    def count(self, target: torch.Tensor) -> torch.Tensor:
        """target: (..., H, W) -> (), float64: pixels whose depth is known."""
        return (target > 0).sum().double()

    def score(self) -> Score:
        from scaleeq.evaluation.depth import DepthRange, DepthScore

        return DepthScore(DepthRange(**self.limits))  # type: ignore[arg-type]
