"""Losses beside a task's own: of auxiliary heads, of a backbone's own logits, and of supervised gates.

They are the main loss with another weight and without OHEM, as in mmsegmentation and HRNet-OCR, whose OHEM is the main
head's alone. What predicts the logits reports them through a collector (scaleeq.layers.collected_logits), or, as a
backbone, beside its levels under "aux_logits".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .losses.options import LossOptions
from .losses.segmentation import SegmentationLoss

GATE_LOSS_WEIGHT = 0.4  # of a supervised gate's own prediction, as an auxiliary head's


def auxiliary_loss(cfg: Any, weight: float) -> SegmentationLoss:
    """The loss of MODEL.LOSS with that weight, and without OHEM."""
    options = LossOptions.from_config(cfg).without_ohem()
    return SegmentationLoss(ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE, weight=weight, options=options)


def auxiliary_losses(cfg: Any, weights: Mapping[str, float]) -> dict[str, nn.Module]:
    """The losses of a backbone's "aux_logits": name -> auxiliary_loss."""
    return {name: auxiliary_loss(cfg, weight) for name, weight in weights.items()}


def gate_loss(loss: SegmentationLoss) -> SegmentationLoss:
    """What the predictions of supervised gates are trained with, beside that loss of the logits themselves."""
    return SegmentationLoss(
        ignore_value=loss.ignore_value, weight=GATE_LOSS_WEIGHT, options=loss.options.without_ohem()
    )
