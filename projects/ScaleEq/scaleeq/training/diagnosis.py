"""Where a loss that is not finite comes from: the first module whose output is not, in a second forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import nn

from scaleeq.equalization.following import tensors_of

from .batches import Batch
from .step import TrainingStep

FINITE = "every output of a second forward was finite"


def describe_step(step: TrainingStep, batch: Batch, *, losses: dict[str, float], norm: float) -> str:
    """What is known on this rank about a step that is not finite, in words; empty where this rank's losses are fine.

    Runs the forward of the batch again; on all ranks alike, because batch norm may exchange statistics in it.
    """
    parts = step.micro_batches(batch)
    reasons = [explain(step.plain_model, lambda part=part: step.forward(part)) for part in parts]  # type: ignore[misc]
    # Who is at fault: this rank's losses, or its gradients.
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if not bad and math.isfinite(norm):
        return ""
    named = [] if bad else step.plain_model.named_parameters()
    gradients = [name for name, parameter in named if parameter.grad is not None and not _ok(parameter.grad)]
    values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    # The micro-batch that it came with, in words.
    index, reason = next(((i, reason) for i, reason in enumerate(reasons) if reason != FINITE), (0, FINITE))
    files = ", ".join(str(sample.get("file_name", "?")) for sample in parts[index])
    where = f"; the gradients of {', '.join(gradients[:3])} and {max(len(gradients) - 3, 0)} more" if gradients else ""
    return f"{values}; gradient norm {norm:.4g}{where}; {reason}; the batch's files: {files}"


def explain(model: nn.Module, forward: Callable[[], object]) -> str:
    """In words: the first module, in the order in which they finish, with an output that is not finite.

    forward: runs `model` once more on the same input. Buffers may change, as in any forward in training.
    """
    broken = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if broken:
        return f"the parameters {', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''} are not finite"
    found: list[str] = []

    def hook(name: str, module: nn.Module) -> Callable[[nn.Module, object, object], None]:
        def look(_: nn.Module, inputs: object, output: object) -> None:
            if not found and not _all_finite(output):
                entered = "finite" if _all_finite(inputs) else "not finite"
                found.append(f"{name or 'the model'} ({type(module).__name__}), whose input was {entered}")

        return look

    with torch.no_grad(), ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(hook(name, module)))
        forward()
    if found:
        return f"the first output that is not finite is that of {found[0]}"
    return FINITE


def _all_finite(value: object) -> bool:
    return all(map(_ok, tensors_of(value)))


def _ok(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
