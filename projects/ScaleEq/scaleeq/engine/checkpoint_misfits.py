"""How a checkpoint differs from the model and the training that it is to be loaded into, found before anything is.

Tensors are compared by name, kind and shape; what an optimizer, a schedule or a hook keeps, by its structure. Each
difference is a line for one message.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

logger = logging.getLogger(__name__)

_MOMENTS = ("momentum_buffer", "exp_avg", "exp_avg_sq")  # of SGD and Adam, as large as their parameter


@dataclass(frozen=True)
class Misfits:
    """How the tensors of a file differ from a model's; each a line for a message, by kind, and the names that fit."""

    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]
    retyped: list[str]
    fitting: list[str]

    @property
    def lines(self) -> list[str]:
        return [*self.missing, *self.unexpected, *self.reshaped, *self.retyped]


def compare(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], *, exact: bool = False) -> Misfits:
    """own: the model's state dict, which may be without values; saved: the file's.

    exact: numbers of another width do not fit.
    """
    both = [name for name in own if name in saved]
    kinds = {name: (_kind(saved[name], exact=exact), _kind(own[name], exact=exact)) for name in both}
    alike = {name for name, (one, other) in kinds.items() if one == other and not saved[name].is_meta}
    fitting = [name for name in both if name in alike and own[name].shape == saved[name].shape]
    return Misfits(
        missing=[f"missing in the file: {name} {_shape(own[name])}" for name in own if name not in saved],
        unexpected=[f"unknown to the model: {name} {_shape(saved[name])}" for name in saved if name not in own],
        reshaped=[
            f"of another shape: {name} is {_shape(saved[name])} in the file, {_shape(own[name])} in the model"
            for name in both
            if name in alike and own[name].shape != saved[name].shape
        ],
        retyped=[
            f"of another kind: {name} is {_words(saved[name])} in the file, {_words(own[name])} in the model"
            for name in both
            if name not in alike
        ],
        fitting=fitting,
    )


def _kind(tensor: Tensor, *, exact: bool) -> tuple[object, ...]:
    """Equal for two tensors where the values of one can be those of the other."""
    integer = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    sort = (tensor.is_floating_point(), tensor.is_complex(), integer)
    dtype = tensor.dtype if exact or tensor.is_quantized else None
    return sort, dtype, tensor.layout, tensor.is_nested, tensor.is_quantized


def _words(tensor: Tensor) -> str:
    words = [str(tensor.dtype).removeprefix("torch.")]
    words += [str(tensor.layout).removeprefix("torch.")] if tensor.layout != torch.strided else []
    words += ["nested"] * tensor.is_nested + ["without values (device meta)"] * tensor.is_meta
    return " ".join(words)


def _shape(tensor: Tensor) -> tuple[int, ...] | str:
    return "(nested)" if tensor.is_nested else tuple(tensor.shape)


def converted(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """A file's tensors, which fit, in the types of the model's.

    ValueError, naming the tensor: a number has no counterpart there, as 1e300 has none in float32.
    """
    ready, changed = {}, 0
    for name, tensor in weights.items():
        dtype = own[name].dtype
        ready[name] = tensor if tensor.dtype == dtype else tensor.to(dtype)
        if tensor.dtype == dtype:
            continue
        changed += 1
        if tensor.is_floating_point():
            same = torch.equal(torch.isinf(ready[name].float()), torch.isinf(tensor.to(torch.float64)))
        else:
            same = torch.equal(ready[name].to(tensor.dtype), tensor)
        if not same:
            types = f"{_words(tensor)} in the file, {_words(own[name])} in the model"
            raise ValueError(f"{file}: nothing was loaded, for {name} is {types}, which cannot hold its numbers")
    if changed:
        logger.info("%s: %d of %d tensors are converted to the model's types", file, changed, len(weights))
    return ready


def state_misfits(own: Any, saved: Any, path: str, *, required: Iterable[str] = ()) -> list[str]:
    """Where a saved state is built otherwise than the present one; what only one of them has is no difference.

    path: of the state, for the lines. required: keys that the saved one must have.
    """
    sorts: Any = ((Mapping,), (list, tuple), (bool,), (int, float), (str,), (Tensor,))
    sort = next((sort for sort in sorts if isinstance(own, sort)), None)
    if sort is None or (saved is None and sort == (bool,)):  # torch's optimizers have flags that may be None
        return []
    if not isinstance(saved, sort) or (isinstance(saved, bool) and sort != (bool,)):
        return [f"of another kind: {path} is {_short(saved)} in the file, {_short(own)} here"]
    if isinstance(own, Mapping):
        lines = [f"missing in the file: {path}.{key}" for key in required if key not in saved]
        pairs = [(key, own[key], saved[key]) for key in own if key in saved]
    elif isinstance(own, (list, tuple)):
        lines, pairs = [], [(index, *pair) for index, pair in enumerate(zip(own, saved, strict=False))]
    else:
        return []
    return lines + [line for key, one, other in pairs for line in state_misfits(one, other, f"{path}.{key}")]


def optimizer_misfits(optimizer: Optimizer, saved: Any, path: str) -> list[str]:
    """Why a saved state is of another optimizer, or of one for other parameters; torch compares their numbers alone."""
    if not isinstance(saved, Mapping) or not {"state", "param_groups"} <= saved.keys():
        return [f"of another kind: {path} is {_short(saved)} in the file, not the state of an optimizer"]
    # What the file says.
    groups, states = saved["param_groups"], saved["state"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own_sizes = [len(group["params"]) for group in optimizer.param_groups]
    try:
        sizes = [len(group["params"]) for group in groups]
        indexed = [index for group in groups for index in group["params"]]
        tensors = [(i, name, value) for i in states for name, value in states[i].items() if isinstance(value, Tensor)]
        places = {index: place for place, index in enumerate(indexed)}
    except (AttributeError, KeyError, TypeError):
        return [f"of another kind: {path} in the file is not the state of an optimizer"]
    # Groups of parameters.
    if sizes != own_sizes:
        return [f"of another shape: {path} is of groups of {sizes} parameters in the file, {own_sizes} here"]
    lines = []
    for number, (own, group) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        at = f"{path}.param_groups.{number}"
        numbers = [k for k, v in own.items() if isinstance(v, (int, float, tuple)) and not isinstance(v, bool)]
        lines += [f"missing in the file: {at}.{key}" for key in numbers if key not in group]
        lines += state_misfits({key: value for key, value in own.items() if key not in ("params", "fused")}, group, at)
    # States of parameters.
    if strangers := [index for index in states if index not in places]:
        lines.append(f"unknown to the optimizer: {path}.state of the parameters {strangers[:8]}")
    for index, name, value in tensors:
        if index not in places or (name not in _MOMENTS and not value.dim()):  # a counter of steps has no dimension
            continue
        shape, of = tuple(parameters[places[index]].shape), f"{path}.state.{index}.{name}"
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            lines.append(f"of another kind: {of} is {_words(value)} in the file")
        elif value.shape != shape:
            lines.append(f"of another shape: {of} is {_shape(value)} in the file, its parameter {shape}")
    return lines


def _short(value: object) -> str:
    """A value of a file, for a line."""
    text = f"a {type(value).__name__}"
    return f"{text}, {value!r}" if isinstance(value, (bool, int, float, str)) and len(repr(value)) < 40 else text
