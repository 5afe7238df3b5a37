"""How a checkpoint differs from the model and the training that it is to be loaded into, found before anything is.

Tensors are compared by name, kind and shape; what an optimizer, a schedule or a hook keeps, by its structure. Each
difference is a line for one message.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

logger = logging.getLogger(__name__)

# What ScaleEqualizer keeps in a state dict, and what fold_equalizers leaves there in its place. Known by name here: the
# engine stands below the fusions, and a plain comparison of keys would only list them.
_EQUALIZER = re.compile(r"(?:^|\.)equalizers\.[^.]+\.(?:mean|std|num_images)$")
_FOLDED = re.compile(r"(?:^|\.)(?:offset_weight|combine\.(?:coefficients|offset))$")

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


def _kind(tensor: Tensor, *, exact: bool) -> tuple[Any, ...]:
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
    if sizes != own_sizes:
        return [f"of another shape: {path} is of groups of {sizes} parameters in the file, {own_sizes} here"]
    lines = []
    for number, (own, group) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        at = f"{path}.param_groups.{number}"
        numbers = [k for k, v in own.items() if isinstance(v, (int, float, tuple)) and not isinstance(v, bool)]
        lines += [f"missing in the file: {at}.{key}" for key in numbers if key not in group]
        lines += state_misfits({key: value for key, value in own.items() if key != "params"}, group, at)
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


def _short(value: Any) -> str:
    """A value of a file, for a line."""
    text = f"a {type(value).__name__}"
    return f"{text}, {value!r}" if isinstance(value, (bool, int, float, str)) and len(repr(value)) < 40 else text


def other_equalizers(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str:
    """In words, how the scale equalizers of a file differ from a model's, and the ways out; empty where they agree."""
    folded_in_file, folded_in_model = ({n for n in names if _FOLDED.search(n)} for names in (saved, own))
    if folded_in_file != folded_in_model:
        places = _places(folded_in_file ^ folded_in_model)
        folded, other = ("file", "model") if folded_in_file - folded_in_model else ("model", "file")
        return (
            f"the {folded}'s scale equalizers were folded into its weights ({places}), the {other}'s were not. Either "
            "load the checkpoint from before the folding, with MODEL.SCALE_EQUALIZER.ENABLED True, and fold after "
            "loading (scaleeq.fold_equalizers), or load the folded weights into a model that was folded in the same way"
        )
    in_file, in_model = ({n: t.shape for n, t in d.items() if _EQUALIZER.search(n)} for d in (saved, own))
    if in_file == in_model:
        return ""
    if not in_model:
        return (
            f"the file is of a model with scale equalizers ({_places(in_file)}), and this model has none: it would "
            "compute something else. Set MODEL.SCALE_EQUALIZER.ENABLED True to use it as it was trained, or load it so "
            "and take scaleeq.fold_equalizers(model), a model without equalizers that computes the same"
        )
    if not in_file:
        return (
            f"this model has scale equalizers ({_places(in_model)}), and the file is of a model without: it knows no "
            "statistics for them. Set MODEL.SCALE_EQUALIZER.ENABLED False to use it as it was trained, or start a "
            "fresh run from the backbone's weights alone (MODEL.TIMM), which calibrates its equalizers at the beginning"
        )
    return (
        f"the scale equalizers differ: the file's are in {_places(in_file)}, the model's in {_places(in_model)}, or "
        "they have other shapes. Set MODEL.SCALE_EQUALIZER.SCOPE and GRANULARITY as they were in the file's training"
    )


def _places(names: Iterable[str]) -> str:
    """The Fusions that hold these tensors."""
    fusions = (re.sub(r"\.?(equalizers|combine|mix)\..*$", "", name) or "the model" for name in names)
    return ", ".join(sorted(set(fusions)))
