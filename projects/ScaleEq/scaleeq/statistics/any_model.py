"""Scale equalizers (arXiv 2402.01149) for any model: the convolutions that read concatenations, equalized in place.

Own design. The model stays the same object with the same parameters, so an optimizer that has them goes on working;
each convolution found or named gets a ConvFusion around it, which is all that calibration, records and folding know.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..fusion import ConvFusion, EqualizerSpec, exchange_module
from ..fusion.conv_fusion import cannot_center
from .calibration import calibrate, fusions_of
from .report import CalibrationReport
from .tracing import Trace, convolutions_of, trace_concatenations

Widths = Mapping[str, int] | Sequence[int]
_EMPTY = object()
IMAGE_KEYS = ("image", "pixel_values", "images", "input")


def equalize(
    model: nn.Module,
    loader: Iterable[Any] | None,
    *,
    conv: str | Mapping[str, Widths] = "",
    widths: Widths | None = None,
    implementation: str = "reparametrize",
    granularity: str = "branch",
    statistic: str = "std",
    center: bool | None = None,
    inputs: Callable[[Any], Any] | None = None,
    num_images: int = 0,
) -> CalibrationReport:
    """Give a model scale equalizers, in place, and calibrate them.

    `fold_equalizers(model)` gives a copy with the same outputs, and with the classes and state-dict keys from before.
    "init_scaled" also needs `scaleeq.fusion.scale_optimizer_steps(model, optimizer)`.

    Args:
        model: in eager mode, before DistributedDataParallel and torch.compile; on any device, in any precision.
        loader: batches of training data; iterated once to look at the model and once per convolution found. In a
            torch.distributed job each process gives its part, of an equal number of batches. None: the equalizers are
            left uncalibrated, for a state dict that is loaded next; then `conv` and `widths` have to be given.
        conv: name of the convolution that reads a concatenation, or name -> widths of several. Default: every one that
            reads a concatenation of maps of which at least one has just been resized.
        widths: channels of the concatenated branches, in order, by name or not. Default: as seen in a forward.
        implementation, granularity, statistic: as MODEL.SCALE_EQUALIZER; statistic "std" or "rms".
        center: subtract means too. Default: where the convolution can hold them when it is folded (it has a bias and
            pads no zeros).
        inputs: batch -> the model's one positional argument. Default: the batch, its first element or its "image" or
            "pixel_values", moved to the model's device and precision.
        num_images: as in `calibrate`.

    Returns:
        What was measured, in running order. On an error the model is as it was.

    Raises:
        ValueError: nothing to equalize; a convolution that is not there, that does not run exactly once, or that cannot
            hold an equalizer; widths that do not add up; a loader that is empty or cannot be iterated again.
    """
    _refuse_model(model)
    if statistic == "grad":
        raise ValueError("equalize measures maps; statistic 'grad' needs losses: give your own Fusions to calibrate")
    named = _named(model, conv, widths)
    take = inputs or _InputOf(model)
    trace = None if loader is None else _trace(model, loader, take)
    spec = EqualizerSpec(implementation=implementation, granularity=granularity, statistic=statistic)
    fusions = [_fusion(model, name, parts, trace, spec, center) for name, parts in _chosen(named, trace).items()]
    for fusion in fusions:
        exchange_module(model, fusion.mix.consumer, fusion)
    if trace is None or loader is None:
        return CalibrationReport()
    try:
        report = calibrate(
            model, loader, num_images=num_images, inputs=lambda batch: (take(batch), None), gather=_gather()
        )
        report.passed_over = trace.passed_over(report.fusions)
        return report
    except BaseException:
        for fusion in fusions:
            exchange_module(model, fusion, fusion.mix.consumer)
        raise


def _fusion(
    model: nn.Module,
    name: str,
    widths: Mapping[str, int],
    trace: Trace | None,
    spec: EqualizerSpec,
    center: bool | None,
) -> ConvFusion:
    """What takes the place of a convolution; ValueError, with its name, where it cannot hold the equalizer."""
    conv = convolutions_of(model)[name]
    try:
        _refuse_tied(model, conv)
        center = not cannot_center(conv) if center is None else center
        reason = "" if trace is None else trace.scale_invariant(name, conv)
        return ConvFusion(conv, widths, equalizer=replace(spec, center=center), scale_invariant=reason)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _refuse_model(model: nn.Module) -> None:
    kind = type(model).__name__
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)) or hasattr(model, "_orig_mod"):
        raise ValueError(f"{kind} wraps the model: equalize the model itself, then wrap or compile it")
    if isinstance(model, nn.Conv2d):
        raise ValueError("the model is a single convolution, whose place cannot be taken; put it into an nn.Sequential")


def _refuse_tied(model: nn.Module, conv: nn.Conv2d) -> None:
    others = [
        name
        for name, module in model.named_modules()
        if module is not conv and any(p is conv.weight for p in module._parameters.values())
    ]
    if others:
        raise ValueError(f"its weight is also that of {', '.join(others)}, which would be scaled with it")


def _named(model: nn.Module, conv: str | Mapping[str, Widths], widths: Widths | None) -> dict[str, dict[str, int]]:
    """Convolution -> branch -> channels, as the caller states them; no branches where they are to be found."""
    if isinstance(conv, Mapping):
        if widths is not None:
            raise ValueError("conv has the widths of each convolution already; leave out widths")
        stated = {name: _by_name(parts) for name, parts in conv.items()}
    elif conv:
        stated = {conv: {} if widths is None else _by_name(widths)}
    elif widths is not None:
        raise ValueError("widths are those of one convolution; name it: conv='decode_head.fusion.conv'")
    else:
        return {}
    for name in stated:
        _refuse_name(model, name)
    return stated


def _by_name(widths: Widths) -> dict[str, int]:
    named = dict(widths) if isinstance(widths, Mapping) else {f"branch{i}": w for i, w in enumerate(widths, 1)}
    for name in named:
        if not name or "." in name or hasattr(nn.ModuleDict, name):
            raise ValueError(f"a branch cannot be named {name!r}; use letters and digits, such as 'p2'")
    return named


def _refuse_name(model: nn.Module, name: str) -> None:
    convs = convolutions_of(model)
    if name in convs:
        return
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        near = difflib.get_close_matches(name, convs, n=4, cutoff=0.5) or list(convs)[-4:]
        raise ValueError(f"the model has no module {name!r}; convolutions are {', '.join(near) or 'none'}")
    for path, fusion in fusions_of(model, equalized=False).items():
        if f"{name}.".startswith(f"{path}."):
            raise ValueError(
                f"{name} has scale equalizers already; begin with fold_equalizers(model)"
                if fusion.equalizers
                else f"{name} is a part of the Fusion {path}; give that an EqualizerSpec instead"
            )
    inside = [path for path in convs if path.startswith(name + ".")][:4]
    raise ValueError(
        f"{name} is {type(modules[name]).__name__}, not an nn.Conv2d of its own"
        + (f"; it has {', '.join(inside)}" if inside else "")
    )


def _trace(model: nn.Module, loader: Iterable[Any], take: Callable[[Any], Any]) -> Trace:
    if isinstance(loader, Iterator):
        raise ValueError("the loader can be iterated once only; give a DataLoader or a list, not an iterator")
    batch = next(iter(loader), _EMPTY)
    if batch is _EMPTY:
        raise ValueError("the calibration loader gave no batch")
    return trace_concatenations(model, take(batch))


def _chosen(named: dict[str, dict[str, int]], trace: Trace | None) -> dict[str, dict[str, int]]:
    """Convolution -> branch -> channels, in running order where that is known."""
    if trace is None:
        if not named or not all(named.values()):
            raise ValueError("without a loader nothing can be found: give conv and widths")
        return named
    found = {name: _by_name(widths) for name, widths in trace.found.items()}
    if not named and not found:
        raise ValueError(
            f"no convolution reads a concatenation of resized maps; name one: equalize(model, loader, conv='...', "
            f"widths=[...]). {trace.describe()}"
        )
    chosen = {}
    for name, parts in (named or found).items():
        read = _by_name(trace.read[name][0]) if name in trace.read else {}
        if trace.calls[name] != 1:
            ran = f"runs {trace.calls[name]} times in a forward" if trace.calls[name] else "does not run in a forward"
            raise ValueError(f"{name} {ran}; an equalizer has one place")
        if not (parts or read):
            raise ValueError(f"{name} reads no concatenation that could be followed; give its widths")
        chosen[name] = parts or read
    order = list(trace.calls)
    return dict(sorted(chosen.items(), key=lambda item: order.index(item[0])))


class _InputOf:
    """batch -> the model's input: the batch, its first element, or the entry that is named as images are."""

    def __init__(self, model: nn.Module):
        floating = [p for p in model.parameters() if p.is_floating_point()]
        if not floating:
            raise ValueError("the model has no parameters")
        self.like = floating[0]

    def __call__(self, batch: Any) -> torch.Tensor:
        found: Any = batch
        if isinstance(batch, Mapping):
            found = next((batch[key] for key in IMAGE_KEYS if key in batch), None)
        elif isinstance(batch, (tuple, list)) and batch:
            found = batch[0]
        if not isinstance(found, torch.Tensor):
            keys = f" with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
            raise ValueError(
                f"a batch is a {type(batch).__name__}{keys}, without an image tensor that could be recognized: give "
                "inputs, a function from a batch to what the model is called with"
            )
        return found.to(self.like.device, self.like.dtype if found.is_floating_point() else None)


def _gather() -> Callable[[Any], list[Any]] | None:
    """What collects objects from all processes of a torch.distributed job; None where there is one."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None

    def gather(value: Any) -> list[Any]:
        values: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values

    return gather
