"""Batch norms that have nothing to normalise over: a map pooled to one cell, with one image per forward pass.

layers/norm.py lets such a map train, by running statistics, which nothing then moves.
"""

from __future__ import annotations

import logging

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scaleeq.engine import comm
from scaleeq.equalization.calibration import fusions_of
from scaleeq.equalization.mode import MORE_VALUES, counts_all_ranks

logger = logging.getLogger(__name__)


def single_value_norms(model: nn.Module, *, micro_batch: int) -> list[str]:
    """The names of the batch norms after a pooling to one cell that see one value a channel in a forward pass."""
    found = []
    for path, block in model.named_modules():
        if not isinstance(block, nn.Sequential):
            continue
        pooled = False
        for name, layer in block.named_children():
            # From the pooling on, a map has one cell.
            pooled |= isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1))
            for inner, norm in layer.named_modules():
                ranks = comm.get_world_size() if counts_all_ranks(norm) else 1
                if pooled and isinstance(norm, _BatchNorm) and norm.training and micro_batch * ranks == 1:
                    found.append(".".join(part for part in (path, name, inner) if part))
    return found


def refuse_single_values(model: nn.Module, *, micro_batch: int) -> None:
    """ValueError for what a calibration of this model would refuse at its first batch (equalization/mode.py)."""
    inside = tuple(f"{fusion}." for fusion in fusions_of(model))
    if found := [name for name in single_value_norms(model, micro_batch=micro_batch) if name.startswith(inside)]:
        raise ValueError(
            f"{found[0]} is a batch norm of an equalized fusion and would get one value per channel, a map of one "
            f"pixel of one image: its branch has no scale to measure. Use {MORE_VALUES}"
        )


def warn_of_single_values(model: nn.Module, *, micro_batch: int) -> None:
    """Say before the first step which branches will not be normalised, and the way out."""
    if found := single_value_norms(model, micro_batch=micro_batch):
        logger.warning(
            "Nothing to normalise over in %s: one value a channel (one cell, one image per forward pass). The running "
            "statistics are used instead, and stay as they are (in a fresh model: no normalisation). The way out: %s",
            ", ".join(found),
            MORE_VALUES,
        )
