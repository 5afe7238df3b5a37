"""PCGrad (arXiv 2001.06782): from gradients of shared parameters, what contradicts another task is taken out.

The gradient of each task over the whole batch, all micro-batches, is projected against those of the others, in a random
order, where their product is negative; the sum of what is left is the shared gradient. The order is drawn from the
iteration's random state, so a resumed run draws it again. What only one task has gets its own gradient.

It takes a backward pass for each task. Deviations: none from the paper's algorithm 1; one process trains, because a
projection of partial gradients is not that of the whole; losses are not scaled (float16), because tasks overflow alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from scaleeq.engine import CfgNode
from scaleeq.tasks.weighting import TaskLosses

from .step import Losses, TrainingStep


def refuse_processes(cfg: CfgNode, num_processes: int) -> None:
    """ValueError: MODEL.TASKS.WEIGHTING is "pcgrad", and there are several processes."""
    if cfg.MODEL.TASKS.WEIGHTING == "pcgrad" and num_processes > 1:
        raise ValueError(
            f"MODEL.TASKS.WEIGHTING 'pcgrad' trains in one process, not in {num_processes}; set 'fixed' or "
            "'uncertainty', or --num-gpus 1 (with SOLVER.ACCUMULATE for a large batch)"
        )


def projected(gradients: torch.Tensor, orders: Sequence[Sequence[int]]) -> torch.Tensor:
    """gradients: (T, P), of each task -> (P,), the sum of what is left of them.

    orders: of each task, the others in the order in which it is projected against their own gradients.
    """
    total = torch.zeros_like(gradients[0])
    squares = gradients.square().sum(1).clamp(min=torch.finfo(gradients.dtype).tiny)
    for index, order in enumerate(orders):
        left = gradients[index].clone()
        for other in order:
            share = torch.dot(left, gradients[other]).clamp(max=0) / squares[other]  # 0 where they agree: no wait
            left -= share * gradients[other]
        total += left
    return total


def random_orders(num_tasks: int) -> list[list[int]]:
    """For each task, the others in a random order."""
    return [[int(t) for t in np.random.permutation(num_tasks) if t != index] for index in range(num_tasks)]


class ProjectedStep(TrainingStep):
    """A training step of a model of several tasks, whose shared parameters get the projected gradient."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As TrainingStep. ValueError: losses are scaled."""
        super().__init__(*args, **kwargs)
        if self.scaler.is_enabled():
            raise ValueError("PCGrad does not scale losses; set SOLVER.AMP.DTYPE 'bfloat16'")
        self._shared, self._own = split_parameters(self.plain_model)
        self._sums: dict[str, torch.Tensor] = {}  # task -> (P,), over the micro-batches of the step

    def add_gradients(self, total: torch.Tensor, told: TaskLosses, *, num_parts: int) -> None:
        if len(told.totals) < 2:
            super().add_gradients(total, told, num_parts=num_parts)
            return
        shares: Losses = {name: share / num_parts for name, share in told.totals.items()}
        if self.watch_tasks is not None:
            self.watch_tasks(shares)
        for name, share in shares.items():
            flat = _flat(torch.autograd.grad(share, self._shared, retain_graph=True, allow_unused=True), self._shared)
            self._sums[name] = self._sums[name] + flat if name in self._sums else flat
        # What one task has alone. Who watches the model sees the gradient of the total last, as in every other step.
        inputs = [*self._own, *(self._shared if self.watch_tasks is not None else [])]
        gradients = torch.autograd.grad(total, inputs, allow_unused=True)
        for parameter, gradient in zip(self._own, gradients, strict=False):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def complete_gradients(self) -> None:
        if not self._sums:
            return
        gradients, self._sums = torch.stack(list(self._sums.values())), {}
        flat = projected(gradients, random_orders(len(gradients)))
        for parameter, gradient in zip(self._shared, flat.split([p.numel() for p in self._shared]), strict=True):
            parameter.grad = gradient.view_as(parameter).to(parameter.dtype).clone()


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters that tasks share, and those that one task has alone, or an auxiliary head.

    Where tasks interact, others see a task's first prediction: what makes it is shared.
    """
    tasks = getattr(model, "tasks", {})
    parts = ["decoders.{}.", "tasks.{}."]
    if any(getattr(task, "interaction", None) is not None for task in tasks.values()):
        parts = ["tasks.{}.interaction.", "tasks.{}.classifier.", "tasks.{}.log_variance"]
    alone = ("aux_heads.", *(part.format(task) for task in tasks for part in parts))
    shared: list[nn.Parameter] = []
    own: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (own if name.startswith(alone) else shared).append(parameter)
    return shared, own


def _flat(gradients: Sequence[torch.Tensor | None], parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """(P,) float32; 0 where there is no gradient."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten().float() for g, p in pairs])
