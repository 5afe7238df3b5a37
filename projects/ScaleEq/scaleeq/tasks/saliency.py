"""Saliency as a task: the probability that a pixel belongs to what people look at first.

Two classes' balanced cross entropy, as ASTMT and InvPT have it, by one logit: the difference of theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .edges import MarksTask
from .metric import Metric
from .registry import register

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from scaleeq.evaluation.values import Score


@register
class SaliencyTask(MarksTask):
    """kind: of maxF, as in TEST.SALIENCY.MAX_F."""

    name = target_key = "saliency"
    metrics = {"maxF": Metric(unit="%", highest=100.0)}  # noqa: RUF012 (as a task reads)
    headline = "maxF"

    def __init__(self, *, positive_weight: float = 0.0, frequency: float = 0.25, kind: str = "pooled_19") -> None:
        super().__init__(positive_weight=positive_weight, frequency=frequency)
        self.kind = kind

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SaliencyTask:
        keys = cfg.MODEL.SALIENCY
        return cls(positive_weight=keys.POSITIVE_WEIGHT, frequency=keys.FREQUENCY, kind=cfg.TEST.SALIENCY.MAX_F)

    def score(self) -> Score:
        from scaleeq.evaluation.saliency import SaliencyScore

        return SaliencyScore(self.kind)
