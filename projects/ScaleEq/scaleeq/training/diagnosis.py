"""Where a loss that is not finite comes from: the first module whose output is not, in a second forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from .step import Batch, TrainingStep

FINITE = "every output of a second forward was finite"


def describe_step(step: TrainingStep, batch: Batch, *, losses: dict[str, float], norm: float) -> str:
    """What is known on this rank about a step that is not finite, in words; empty where this rank's losses are fine.

    Runs the forward of the batch again; on all ranks alike, because batch norm may exchange statistics in it.
    """
    parts = step.micro_batches(batch)
    reasons = [explain(step.plain_model, lambda part=part: step.forward(part)) for part in parts]  # type: ignore[misc]
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if not bad and math.isfinite(norm):
        return ""
    gradients = [] if bad else bad_gradients(step.plain_model)
    values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    index, reason = next(((i, reason) for i, reason in enumerate(reasons) if reason != FINITE), (0, FINITE))
    files = ", ".join(str(sample.get("file_name", "?")) for sample in parts[index])
    where = f"; the gradients of {', '.join(gradients[:3])} and {max(len(gradients) - 3, 0)} more" if gradients else ""
    return f"{values}; gradient norm {norm:.4g}{where}; {reason}; the batch's files: {files}"


def explain(model: nn.Module, forward: Callable[[], Any]) -> str:
    """In words: the first module, in the order in which they finish, with an output that is not finite.

    forward: runs `model` once more on the same input. Buffers may change, as in any forward in training.
    """
    broken = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if broken:
        return f"the parameters {', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''} are not finite"
    found: list[str] = []

    def hook(name: str, module: nn.Module) -> Callable[[nn.Module, Any, Any], None]:
        def look(_: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not _all_finite(output):
                entered = "finite" if _all_finite(inputs) else "not finite"
                found.append(f"{name or 'the model'} ({type(module).__name__}), whose input was {entered}")

        return look

    handles = [module.register_forward_hook(hook(name, module)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return f"the first output that is not finite is that of {found[0]}"
    return FINITE


def bad_gradients(model: nn.Module) -> list[str]:
    """The names of the parameters whose gradient is not finite."""
    return [
        name for name, parameter in model.named_parameters() if parameter.grad is not None and not _ok(parameter.grad)
    ]


def _all_finite(value: Any) -> bool:
    return all(_ok(tensor) for tensor in _tensors(value))


def _ok(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(value.values())
    elif isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        for part in value:
            yield from _tensors(part)
