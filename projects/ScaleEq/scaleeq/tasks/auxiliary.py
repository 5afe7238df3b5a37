"""Predictions beside the task's own: of auxiliary heads, and a backbone's own logits.

Their loss is the main loss with another weight and without OHEM, as in mmsegmentation and HRNet-OCR, whose OHEM is the
main head's alone. What predicts logits of its own reports them through a collector (scaleeq.layers.collected_logits),
or, as a backbone, beside its levels under "aux_logits".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from scaleeq.decoders.fcn import FCN
from scaleeq.engine import ShapeSpec

from .configured import resolve_norm
from .detectron2 import resolve_levels
from .head import SegmentationHead
from .losses.options import LossOptions
from .losses.segmentation import SegmentationLoss
from .registry import task_names
from .semantic import SemanticTask

if TYPE_CHECKING:
    from yacs.config import CfgNode


def auxiliary_loss(cfg: CfgNode, weight: float) -> SegmentationLoss:
    """The loss of MODEL.LOSS with that weight, and without OHEM."""
    options = LossOptions.from_config(cfg).without_ohem()
    return SegmentationLoss(
        ignore_value=cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        weight=weight,
        options=options,
        in_strips=cfg.MODEL.FUSION.EVALUATE != "plain",
    )


def auxiliary_losses(cfg: CfgNode, weights: Mapping[str, float]) -> dict[str, nn.Module]:
    """The losses of a backbone's "aux_logits": name -> auxiliary_loss. ValueError: the model has no classes."""
    names = task_names(cfg)
    if weights and SemanticTask.name not in names:
        raise ValueError(
            f"MODEL.HRNET.GATES is {cfg.MODEL.HRNET.GATES!r}, whose supervised gates predict classes, but "
            f"MODEL.TASKS.NAMES is {names}; take 'unsupervised' or 'none'"
        )
    return {name: auxiliary_loss(cfg, weight) for name, weight in weights.items()}


def auxiliary_heads(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, SegmentationHead]:
    """The heads of MODEL.AUX_HEAD: level -> one convolution and a predictor of classes, with its loss weight.

    ValueError: the model has no classes; not one weight per level; a level that there is not.
    """
    keys, head = cfg.MODEL.AUX_HEAD, cfg.MODEL.SEM_SEG_HEAD
    if len(keys.IN_FEATURES) != len(keys.LOSS_WEIGHTS):
        raise ValueError(
            f"MODEL.AUX_HEAD.IN_FEATURES has {len(keys.IN_FEATURES)} levels {keys.IN_FEATURES} but "
            f"MODEL.AUX_HEAD.LOSS_WEIGHTS {len(keys.LOSS_WEIGHTS)} {keys.LOSS_WEIGHTS}; give one weight per level"
        )
    names = task_names(cfg)
    if keys.IN_FEATURES and SemanticTask.name not in names:
        raise ValueError(
            f"MODEL.AUX_HEAD.IN_FEATURES has {', '.join(keys.IN_FEATURES)}, whose heads predict classes, but "
            f"MODEL.TASKS.NAMES is {names}; set MODEL.AUX_HEAD.IN_FEATURES [] and MODEL.AUX_HEAD.LOSS_WEIGHTS []"
        )
    heads = {}
    for level, weight in zip(keys.IN_FEATURES, keys.LOSS_WEIGHTS, strict=True):
        levels = resolve_levels([level], input_shape, "MODEL.AUX_HEAD.IN_FEATURES")
        classes = SemanticTask(num_classes=head.NUM_CLASSES, loss=auxiliary_loss(cfg, weight))
        predictor = classes.predictor(keys.CONVS_DIM)  # draws before the decoder, as the main head's
        decoder = FCN(levels, keys.CONVS_DIM, num_convs=1, concat_input=False, norm=resolve_norm(head.NORM))
        heads[level] = SegmentationHead(decoder, classes, dropout=head.DROPOUT, predictor=predictor)
    return heads
