"""Frozen batch norms without weights: constants 1, 0, 0, 1, with which a backbone is no normalized net at all.

Its maps grow from block to block (a std of 1e3 on a ResNet-50's res4, 1e6 on a ResNet-101's), so what is measured on
them says nothing about the trained net. Files of weights may keep their statistics in weight and bias alone: only all
four constants at their initial values, in every norm, mean that none were loaded.
"""

from __future__ import annotations

import torch
from torch import nn

CONSTANTS = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
TOLERANCE = 1e-3  # Detectron2 starts with a variance of 1 - eps


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm whose constants are all buffers: Detectron2's, torchvision's or timm's."""
    return CONSTANTS.keys() <= set(module._buffers.keys()) and not module._parameters


@torch.no_grad()
def refuse_frozen_without_weights(model: nn.Module) -> None:
    """ValueError: the model has frozen batch norms, and all of them have their initial constants."""
    norms = [module for module in model.modules() if is_frozen_norm(module)]
    if norms and all(map(_is_initial, norms)):
        raise ValueError(
            f"none of the {len(norms)} frozen batch norms has weights: each is the identity, so the scales of such a "
            "backbone say nothing. Load weights first (MODEL.WEIGHTS, or MODEL.TIMM.PRETRAINED), or let its batch "
            "norms train (MODEL.TIMM.NORM '', MODEL.RESNETS.NORM BN)"
        )


def _is_initial(norm: nn.Module) -> bool:
    return all(
        bool(((buffer - CONSTANTS[name]).abs() <= TOLERANCE).all())
        for name, buffer in norm.named_buffers(recurse=False)
        if name in CONSTANTS
    )
