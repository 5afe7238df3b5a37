"""What numbers a checkpoint may hold: one rule, for every file that is written and for every file that is read.

- A parameter is finite.
- A buffer holds neither NaN nor +inf; -inf is what a mask holds.
- What a norm or a scale equalizer measured, and what folding left of it, is finite; a variance is not below 0, a std is
  above 0.
- What an optimizer, a schedule or a loss scaler keeps is finite.

Metrics that are saved beside may be what they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Content = Mapping[str, Any]  # of a checkpoint: {"model": state dict, <name>: what else was saved}
WEIGHTS = ("model", "ema")  # the state dicts in a checkpoint

_EQUALIZER = r"(?:^|\.)equalizers\.[^.]+\."
_MEASURED = re.compile(
    rf"{_EQUALIZER}(?:mean|std)$|(?:^|\.)(?:running_mean|running_var|offset_weight|combine\.(?:coefficients|offset))$"
)
_STD = re.compile(rf"{_EQUALIZER}std$")
_VARIANCE = re.compile(r"(?:^|\.)running_var$")
_PLAIN_NUMBERS = {"param_groups", "scaler", "base_lrs", "_last_lr"}  # whose plain numbers are checked, not only tensors
_ORDERED = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def first_fault(content: Content, parameters: Collection[str]) -> str:
    """The first tensor of a checkpoint that breaks the rule, in words that begin with its name; empty without any.

    content: {"model": state dict, ...}. parameters: the names of the model's; all else there is a buffer.
    """
    return next(_faults(content, parameters), "")


def weight_fault(name: str, value: Tensor, *, is_parameter: bool) -> str:
    """What is wrong with the numbers of a tensor of a state dict, as "is not finite"; empty where they are sound."""
    low, high = bounds(value)
    if is_parameter or _MEASURED.search(name):
        if not (math.isfinite(low) and math.isfinite(high)):
            return "is not finite"
    elif math.isnan(low) or high == math.inf:
        return "is not finite (a buffer may hold -inf alone, as a mask does)"
    if _STD.search(name) and low <= 0:
        return f"is {low:g}, and a scale equalizer's standard deviation is above 0"
    if _VARIANCE.search(name) and low < 0:
        return f"is {low:g}, and a variance is not below 0"
    return ""


def bounds(values: Tensor) -> tuple[float, float]:
    """The least and the greatest number, both NaN where one is; (1, 1) of a tensor that holds no floats."""
    values = values.detach()
    has_floats = values.is_floating_point() or values.is_complex()
    if not has_floats or values.is_quantized or values.is_meta or not values.numel():
        return 1.0, 1.0
    if values.layout != torch.strided:
        values = values.to_dense()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if values.dtype not in _ORDERED:  # floats of eight bits
        values = values.float()
    low, high = torch.stack(torch.aminmax(values)).tolist()
    return low, high


def _faults(content: Content, parameters: Collection[str]) -> Iterator[str]:
    for key, part in content.items():
        if not isinstance(part, Mapping):
            continue
        if key not in WEIGHTS:
            yield from _state_faults(part, (key,))
            continue
        for name, value in part.items():
            fault = weight_fault(name, value, is_parameter=name in parameters) if isinstance(value, Tensor) else ""
            if fault:
                yield f"{name} of {key!r} {fault}"


def _state_faults(state: object, path: tuple[str, ...]) -> Iterator[str]:
    """Of what an optimizer, a hook or the like keeps."""
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from _state_faults(value, (*path, str(key)))
    elif isinstance(state, (list, tuple)):
        for index, value in enumerate(state):
            yield from _state_faults(value, (*path, str(index)))
    elif isinstance(state, Tensor):
        if not all(map(math.isfinite, bounds(state))):
            yield f"{'.'.join(path)} is not finite"
    elif isinstance(state, float) and not math.isfinite(state) and _PLAIN_NUMBERS.intersection(path):
        yield f"{'.'.join(path)} is {state}"
