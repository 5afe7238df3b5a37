"""How the losses of several tasks become one total: by fixed factors, or by learned uncertainties.

Source: Kendall et al. (arXiv 1705.07115) in the form of LibMTL's UW: with one s a task, which starts at -0.5,

    total = sum over tasks of  loss / (2 exp(s)) + s / 2

for every kind of loss (Kendall: without the first 1/2 for classification). s is a parameter of its task, without weight
decay (training/parameter_groups). The total may be negative.

What a model returns is already weighted, so that any trainer that adds it up trains the total. The losses as they are,
which people compare, and each task's share of the total come through a collector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch

from .base import Losses, Task

WEIGHTINGS = ("fixed", "uncertainty", "pcgrad")  # the last one is a training step's: training/pcgrad.py


@dataclasses.dataclass
class TaskLosses:
    """What a forward of several tasks says of its losses; empty for one task.

    unweighted: name -> (), detached. totals: task -> (), with its graph: what the task adds to the total.
    """

    unweighted: Losses = dataclasses.field(default_factory=dict)
    totals: Losses = dataclasses.field(default_factory=dict)


class collected_task_losses:
    """The losses of the tasks of forwards inside the context; of the last one.

    with collected_task_losses() as told:
        losses = model(batch)
    """

    _open: ClassVar[list[TaskLosses]] = []

    def __enter__(self) -> TaskLosses:
        told = TaskLosses()
        self._open.append(told)
        return told

    def __exit__(self, *_: object) -> None:
        self._open.pop()

    @classmethod
    def report(cls, *, unweighted: Losses, totals: Losses) -> None:
        """Hand them to the innermost context, where there is one."""
        if cls._open:
            told = cls._open[-1]
            told.unweighted, told.totals = {name: loss.detach() for name, loss in unweighted.items()}, totals


def weighted(losses: Mapping[str, Losses], tasks: Mapping[str, Task], weights: Mapping[str, float]) -> Losses:
    """The losses of all tasks, whose sum is the total.

    losses: task -> name -> (). weights: task -> factor; one that it does not name has 1. A task with an uncertainty has
    no weight. Returns name -> (), the share of the uncertainty itself in the task's first one.
    """
    shares: Losses = {}
    totals: Losses = {}
    for name, own in losses.items():
        # By its fixed weight, or by its learnt uncertainty s = log sigma^2.
        s = tasks[name].log_variance
        factor = weights.get(name, 1.0) if s is None else torch.exp(-s) / 2
        scaled = {key: loss * factor for key, loss in own.items()}
        if s is not None:
            first = next(iter(scaled))
            scaled[first] = scaled[first] + s / 2
        shares |= scaled
        totals[name] = torch.stack(list(scaled.values())).sum()
    # What the log shows.
    unweighted = {key: loss for own in losses.values() for key, loss in own.items()}
    collected_task_losses.report(unweighted=unweighted, totals=totals)
    return shares
