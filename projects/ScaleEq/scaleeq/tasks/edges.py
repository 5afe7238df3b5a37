"""Edges as a task: the probability that a pixel is on one, balanced cross entropy as the loss (HED, MTI-Net, InvPT)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from scaleeq.geometry import Geometry
from scaleeq.ops import resize

from .base import Losses
from .losses.binary import VOID, balanced_cross_entropy
from .mapped import MappedTask
from .metric import Metric
from .registry import register
from .views import Scale

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from scaleeq.evaluation.values import Score

_SHARE = Metric(unit="%", highest=100.0)


class MarksTask(MappedTask):
    """Base of the tasks that mark pixels: one logit, 0, 1 or 255 (void) as the truth, probabilities as the result.

    Args:
        positive_weight: of the marked pixels' cross entropy, 1 minus it is the others'; 0: an image's share of others.
        frequency: of the marked pixels in the training set, where predictions start.
    """

    channels = 1
    dtype = torch.uint8
    geometry = Geometry(padding=float(VOID))
    scale = Scale(0.0, 1.0)
    unknown = float(VOID)

    def __init__(self, *, positive_weight: float, frequency: float) -> None:
        super().__init__()
        self.positive_weight = positive_weight
        self.initial_bias = math.log(frequency / (1 - frequency))

    def losses(self, prediction: torch.Tensor, targets: torch.Tensor, mean_count: torch.Tensor | None = None) -> Losses:
        """prediction: (N, 1, h, w) logits, targets: (N, H, W) uint8 -> {"loss_<name>": ()}."""
        logits = resize(prediction.float(), (targets.shape[-2], targets.shape[-1]))[:, 0]
        total = balanced_cross_entropy(logits, targets, positive_weight=self.positive_weight)
        return {f"loss_{self.name}": total / self.divisor(targets, mean_count)}

    def count(self, target: torch.Tensor) -> torch.Tensor:
        """target: (..., H, W) -> (), float64: pixels that are not void."""
        return (target != VOID).sum().double()

    def finish(
        self,
        prediction: torch.Tensor,
        padded_size: Sequence[int],
        image_sizes: Sequence[Sequence[int]],
        sizes: Sequence[Sequence[int]],
    ) -> list[torch.Tensor]:
        """Probabilities: (1, height, width) each; what is averaged over windows and scales are these."""
        return [each.sigmoid() for each in super().finish(prediction, padded_size, image_sizes, sizes)]


@register
class EdgesTask(MarksTask):
    """match: whether edges are scored by matching (odsF); else by plain pixels alone. tolerance: of a match."""

    name = target_key = "edges"
    metrics = dict.fromkeys(("odsF", "oisF", "plainF"), _SHARE)
    headline = "odsF"

    def __init__(
        self, *, positive_weight: float = 0.95, frequency: float = 0.05, match: bool = True, tolerance: float = 0.0075
    ) -> None:
        super().__init__(positive_weight=positive_weight, frequency=frequency)
        self.match, self.tolerance = match, tolerance
        if not match:
            self.headline = "plainF"  # type: ignore[misc]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> EdgesTask:
        keys, test = cfg.MODEL.EDGES, cfg.TEST.EDGES
        return cls(
            positive_weight=keys.POSITIVE_WEIGHT,
            frequency=keys.FREQUENCY,
            match=test.MATCH,
            tolerance=test.MAX_DISTANCE,
        )

    def score(self) -> Score:
        from scaleeq.evaluation.edges import EdgesScore

        return EdgesScore(match=self.match, tolerance=self.tolerance)

    def quick_score(self) -> Score:
        from scaleeq.evaluation.edges import EdgesScore

        return EdgesScore(match=False)
