"""Human parts as a task: a part of the body for each pixel, or the background; cross entropy, mean IoU.

An image without people is void altogether (Chen et al. 2014, ASTMT): counted as background, it would change the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from scaleeq.geometry import Geometry
from scaleeq.ops import resize
from scaleeq.pictures import Color, palette

from .base import Losses
from .mapped import MappedTask
from .metric import Metric
from .registry import register

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from scaleeq.evaluation.values import Score

VOID = 255


@register
class HumanPartsTask(MappedTask):
    """Logits of the background and six parts. absent: the policy for parts in no truth, as in TEST.ABSENT_CLASSES."""

    name = target_key = "human_parts"
    channels = 7
    dtype = torch.int64
    averages = "logits"
    geometry = Geometry(padding=float(VOID))
    metrics = dict.fromkeys(("mIoU", "mACC", "pACC"), Metric(unit="%", highest=100.0))
    headline = "mIoU"

    def __init__(self, *, absent: str = "exclude") -> None:
        super().__init__()
        self.absent = absent

    @classmethod
    def from_config(cls, cfg: CfgNode) -> HumanPartsTask:
        return cls(absent=cfg.TEST.ABSENT_CLASSES)

    def losses(self, prediction: torch.Tensor, targets: torch.Tensor, mean_count: torch.Tensor | None = None) -> Losses:
        """prediction: (N, 7, h, w) logits, targets: (N, H, W) -> {"loss_human_parts": ()}."""
        logits = resize(prediction.float(), (targets.shape[-2], targets.shape[-1]))
        total = F.cross_entropy(logits, targets.long(), ignore_index=VOID, reduction="sum")
        return {"loss_human_parts": total / self.divisor(targets, mean_count)}

    def count(self, target: torch.Tensor) -> torch.Tensor:
        """target: (..., H, W) -> (), float64: pixels that are not void."""
        return (target != VOID).sum().double()

    def legend(self) -> Mapping[str, Color]:
        """The parts' names."""
        from scaleeq.data.maps import PARTS

        return dict(zip(PARTS, palette(self.channels), strict=True))

    def score(self) -> Score:
        from scaleeq.data.maps import PARTS
        from scaleeq.evaluation.classes import ClassesScore

        return ClassesScore(PARTS, absent=self.absent)
