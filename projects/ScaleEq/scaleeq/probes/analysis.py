"""The scales of a model that nobody trains: every Fusion measured over a few batches, as they are and as equalized.

Batch norms use batch statistics, dropout and drop path are off, and gradients are those of the training
loss. Each batch is a step of its own; of their gradients the root mean square is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scaleeq.equalization.gradients import training_loss
from scaleeq.equalization.mode import measuring

from .scales import Record, Recorder

Batch = TypeVar("Batch")


def measure_scales(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    loss: Callable[[Batch], torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    tasks: Callable[[], AbstractContextManager[Any]] | None = None,
) -> Record:
    """Record all Fusions of a model over some batches; see .scales for the numbers.

    Args:
        batches: of training data, at least one.
        loss: batch -> the training loss; default the sum of the losses that the model returns in training.
        optimizer: takes one step with the last batch's gradients, for relative_step: the weights CHANGE. None: no step.
        tasks: of a model with several, what collects in `totals` each one's share of a loss, for the gradients of each.

    Raises:
        ValueError: no batch, or a loss that is not finite.
    """
    loss = loss or training_loss(model)
    empty = True
    try:
        # Gradients of every batch, and a step with the last one's.
        with Recorder(model, tasks=tasks is not None) as recorder:
            with measuring(model), torch.enable_grad():
                _train_without_noise(model)
                for batch in batches:
                    empty = False
                    model.zero_grad()
                    with tasks() if tasks else nullcontext() as told:
                        value = loss(batch)
                    if not torch.isfinite(value):
                        raise ValueError(f"the loss of a batch is {float(value)}: its gradients say nothing")
                    if told is not None:
                        recorder.read_tasks(told.totals)
                    value.backward()
                    recorder.read_gradients()
            if empty:
                raise ValueError("there is no batch to measure")
            if optimizer is not None:
                optimizer.step()
    finally:
        model.zero_grad()
    # Without a step its size says nothing.
    record = recorder.finish()
    if optimizer is None:
        for fusion in record.values():
            for branch in fusion["branches"].values():
                branch.pop("relative_step", None)
    return record


def _train_without_noise(model: nn.Module) -> None:
    """Training mode, for the losses, but for the layers that are random in it: those without layers in them."""
    model.train()
    for module in model.modules():
        if not isinstance(module, _BatchNorm) and not list(module.children()):
            module.eval()
