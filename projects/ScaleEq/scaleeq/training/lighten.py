"""What is done to a model that is only evaluated from now on: the same function, equal to rounding, in less time.

Weights on disk, and what is told of them (their hash, parameters, multiply-adds), are those before.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from scaleeq.decoders import ASPP, SepASPP
from scaleeq.engine import CfgNode
from scaleeq.equalization.folding import fold_for_inference
from scaleeq.tasks.head import SegmentationHead

logger = logging.getLogger(__name__)

DEVICES = ("cpu", "cuda")  # have float64, which folding computes in


def lighten(cfg: CfgNode, model: nn.Module) -> None:
    """Fold equalizers and batch norms of a model with weights, in place; on a CPU, atrous heads become channels_last.

    MODEL.FUSION.EVALUATE plain leaves the model as it is, for the digits of before. Convolutions with a large dilation
    take about two thirds of their time in channels_last on a CPU; docs/performance.md has the measurement.

    RuntimeError: an equalizer is not calibrated.
    """
    device = torch.device(cfg.MODEL.DEVICE).type
    if cfg.MODEL.FUSION.EVALUATE == "plain" or device not in DEVICES:
        return
    fold_for_inference(model)
    for module in model.modules():
        atrous = isinstance(module, SegmentationHead) and isinstance(module.decoder, (ASPP, SepASPP))
        if atrous and device == "cpu":
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
