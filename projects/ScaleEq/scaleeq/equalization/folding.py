"""Folding: a calibrated model without its equalizers, with the same outputs.

Concatenations fold into the weights of the convolution that follows, sums into one coefficient per branch and one
offset; both are exact, zero-padded borders included (see layers/offset_conv.py). A convolution that `equalize` put a
Fusion in place of gets its place back.
"""

from __future__ import annotations

import copy
import logging
from typing import TypeVar

from torch import nn

from scaleeq.layers import ConvNormAct

from .calibration import fusions_of, require_calibrated
from .foreign_conv import ConvFusion, exchange_module

Model = TypeVar("Model", bound=nn.Module)

logger = logging.getLogger(__name__)


def fold_equalizers(model: Model) -> Model:
    """A copy of a model whose equalizers are folded into the weights that follow them.

    The copy computes the same function, has no equalizer in its modules or its state dict, and can be trained further
    (as a plain model: its training differs from the equalized one's).

    Raises:
        RuntimeError: an equalizer is not calibrated; the message names its fusion.
        ValueError: weights in half precision cannot hold it.
    """
    require_calibrated(model)
    folded = copy.deepcopy(model)
    for name, fusion in fusions_of(folded).items():
        try:
            fusion.fold()
        except ValueError as error:
            raise ValueError(f"fusion {name!r} cannot be folded: {error}") from error
        if isinstance(fusion, ConvFusion):
            exchange_module(folded, fusion, fusion.conv)
    return folded


def fold_for_inference(model: nn.Module) -> None:
    """Put equalizers, and the batch norms of convolution blocks, into the weights, in place, for inference alone.

    The model is in eval mode then, and computes the same function, equal to rounding. Equalizers whose weights cannot
    hold them stay, and the log says why.

    Raises:
        RuntimeError: an equalizer is not calibrated; the message names its fusion.
    """
    require_calibrated(model)
    model.eval()
    for module in model.modules():
        if isinstance(module, ConvNormAct):
            module.fold_norm()
    for name, fusion in fusions_of(model).items():
        try:
            fusion.fold()
        except ValueError as error:
            logger.info("The equalizers of %s are not folded: %s", name, error)
            continue
        if isinstance(fusion, ConvFusion):
            exchange_module(model, fusion, fusion.conv)
