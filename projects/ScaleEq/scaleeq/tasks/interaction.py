"""Tasks that look at each other: a task's decoder takes the first predictions of others, and predicts again.

Each task that interacts has a first predictor, with the task's own losses ("loss_<task>_first"), and an Interaction,
which makes the map of its second, final prediction. An interaction of your own is one file: a subclass of Interaction
with the decorator `register_interaction`. Import it, and MODEL.TASKS.INTERACTION knows its name; pad_net.py is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.layers import NormFactory
from scaleeq.task_names import know_interaction

from .base import Task


class Interaction(nn.Module):
    """What a task's map becomes once the first predictions of other tasks are known."""

    def __init__(self, width: int, others: Mapping[str, int], *, norm: NormFactory | None):
        """
        Args:
            width: of the task's map, before and after.
            others: task -> channels of its prediction, of those that it takes.
            norm: of the decoders, for what is built here.
        """
        super().__init__()
        self.others = list(others)

    def forward(self, fused: torch.Tensor, first: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """fused: (N, width, h, w); first: other task -> (N, its channels, h', w') -> (N, width, h, w)."""
        raise NotImplementedError


INTERACTIONS: dict[str, type[Interaction]] = {}
InteractionClass = TypeVar("InteractionClass", bound=type[Interaction])


def register_interaction(name: str) -> Callable[[InteractionClass], InteractionClass]:
    """Make an interaction known under a name; a class decorator. ValueError: the name is another's."""

    def register(interaction: InteractionClass) -> InteractionClass:
        known = INTERACTIONS.get(name, interaction)
        if (known.__module__, known.__qualname__) != (interaction.__module__, interaction.__qualname__):
            raise ValueError(f"there is an interaction {name!r} already, {known.__module__}.{known.__qualname__}")
        know_interaction(name)
        INTERACTIONS[name] = interaction
        return interaction

    return register


def attach_interactions(tasks: Mapping[str, Task], name: str, *, width: int, norm: NormFactory | None) -> None:
    """Give the tasks of a model interactions of that name; "": none. Tasks are attached already.

    width: of the decoders' maps. ValueError: an unknown name; a task that is to come after one that the model has not.
    """
    if not name:
        return
    interaction = INTERACTIONS[one_of(name, INTERACTIONS, key="MODEL.TASKS.INTERACTION")]
    for task in tasks.values():
        # A task that says nothing comes after all others.
        after = [other for other in tasks if other != task.name] if task.after is None else list(task.after)
        for other in after:
            if other not in tasks or other == task.name:
                raise ValueError(
                    f"the task {task.name} comes after {other!r}, which is none of the others in the model; there are "
                    f"{', '.join(tasks)} (MODEL.TASKS.NAMES)"
                )
        if after:
            others = {other: tasks[other].channels for other in after}
            task.interact(interaction(width, others, norm=norm), width=width)


def interacting_predictions(
    tasks: Mapping[str, Task], maps: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """maps: task -> (N, width, h, w) -> the final predictions, (N, channels, h, w) each, and the first ones of those
    that have two."""
    first = {name: task.predict_first(maps[name]) for name, task in tasks.items()}
    final = {
        name: first[name]
        if task.interaction is None
        else task.predict(task.interaction(maps[name], {other: first[other] for other in task.interaction.others}))
        for name, task in tasks.items()
    }
    return final, {name: first[name] for name, task in tasks.items() if task.interaction is not None}
