"""What a training step tells the losses that are means: its iteration, and what they divide by.

A mean over elements (pixels, mostly) is not the mean of the means over parts of a batch. With the mean of the counts of
all micro-batches on all ranks, the mean of their losses is the loss of the whole batch, exactly. Each task counts its
own: valid depths, normals and labels differ in number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

Count = float | torch.Tensor


class Averaging(nn.Module):
    """Base of what a training step tells its iteration and the mean count of one task's elements.

    task: whose elements it averages over; "sem_seg" unless a subclass says otherwise.
    """

    task = "sem_seg"
    mean_count: torch.Tensor
    iteration: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        # A number as the sum of two float32, exact to 48 bits: not every device has float64.
        self.register_buffer("mean_count", torch.zeros(2), persistent=False)
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64), persistent=False)


def prepare_step(
    model: nn.Module, *, iteration: int, mean_count: Count | Mapping[str, Count]
) -> contextlib.AbstractContextManager[object]:
    """Tell every loss in `model` the iteration and what a mean over elements divides by.

        with prepare_step(model, iteration=7, mean_count={"sem_seg": count}):
            ...  # the step's forward and backward passes

    They know it from the call on; at the end of the block, also after an error, they forget it, so that a later forward
    has its own count again.

    Args:
        iteration: of the run, from 0.
        mean_count: task -> the mean over micro-batches and ranks of its counts; or one for all tasks. 0, or a task that
            is not named: each batch its own count. A tensor () float64 on the model's device where the host does not
            know it.
    """
    _tell(model, iteration, mean_count)
    forgetting = contextlib.ExitStack()
    forgetting.callback(_tell, model, 0, 0.0)
    return forgetting


@torch.no_grad()
def _tell(model: nn.Module, iteration: int, mean_count: Count | Mapping[str, Count]) -> None:
    """By filling in, not by copying: a copy from the host's memory would wait for the device."""
    for module in model.modules():
        if isinstance(module, Averaging):
            count = mean_count.get(module.task, 0.0) if isinstance(mean_count, Mapping) else mean_count
            rounded = count.float() if isinstance(count, torch.Tensor) else float(np.float32(count))
            module.mean_count[0].fill_(rounded)
            module.mean_count[1].fill_(count - rounded)
            module.iteration.fill_(iteration)
