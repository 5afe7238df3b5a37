"""Scale equalizers (arXiv 2402.01149) for any model, in place: its Fusions, or what reads concatenations.

The model stays the same object with the same parameters, so an optimizer that has them goes on working;
each convolution found or named gets a ConvFusion around it, which is all that calibration, records and folding know.
A model that is built of Fusions needs none of that: equalizers are attached to them.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from scaleeq.choices import nearest
from scaleeq.fusion import Fusion
from scaleeq.fusion.fusion import Equalizers
from scaleeq.layers.refusals import refuse_name

from .attach import equalize_fusions
from .batches import InputOf, explained, first_batch
from .calibration import calibrate, fusions_of
from .foreign_conv import ConvFusion, cannot_center, exchange_module
from .forwards import Gather, T
from .result import CalibrationReport
from .spec import EqualizerSpec
from .tracing import Trace, convolutions_of, in_words, trace_concatenations

Batch = TypeVar("Batch")
Widths = Mapping[str, int] | Sequence[int]

logger = logging.getLogger(__name__)


def equalize(
    model: nn.Module,
    loader: Iterable[Batch] | None,
    *,
    conv: str | Mapping[str, Widths] = "",
    widths: Widths | None = None,
    implementation: str = "reparametrize",
    granularity: str = "branch",
    statistic: str = "std",
    center: bool | None = None,
    inputs: Callable[[Batch], object] | None = None,
    num_images: int = 0,
) -> CalibrationReport:
    """Give a model scale equalizers, in place, and calibrate them.

    `fold_equalizers(model)` gives a copy with the same outputs, and with the classes and state-dict keys from before.
    "init_scaled" also needs `scaleeq.equalization.scale_optimizer_steps(model, optimizer)`.

    Args:
        model: in eager mode, before DistributedDataParallel and torch.compile; on any device, in any precision.
            Where it has Fusions, and `conv` names nothing else, they are equalized, all but a pyramid's.
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
        What was measured, in running order, and in `passed_over` what else reads a concatenation, and why it was left.
            On an error the model is as it was.

    Raises:
        ValueError: nothing to equalize; a convolution that is not there, does not run exactly once or cannot hold an
            equalizer; widths that are not those of its maps; a loader or batches that the model cannot read.
    """
    spec = EqualizerSpec(implementation=implementation, granularity=granularity, statistic=statistic)
    _refuse_model(model, spec)
    named = _named(model, conv, widths)
    take = inputs or InputOf(model)
    # What the model does.
    trace = None if loader is None else _trace(model, loader, take)
    own = {} if named else _own_fusions(model, trace)
    chosen = {} if own else _chosen(model, named, trace)
    # Equalize: prepare all, put them in, measure.
    fusions = [_fusion(model, name, chosen, trace, spec, center) for name in chosen]
    with _placed(model, fusions), _attached(model, own, spec if center is None else replace(spec, center=center)):
        if trace is None or loader is None:
            return CalibrationReport()
        report = calibrate(
            model, loader, num_images=num_images, inputs=lambda batch: (take(batch), None), gather=_gather()
        )
        report.passed_over = trace.passed_over(report.fusions)
        return report


def _own_fusions(model: nn.Module, trace: Trace | None) -> dict[str, Fusion]:
    """Path -> Fusion that the model is built of. ValueError: convolutions would be equalized beside them."""
    fusions = fusions_of(model, equalized=False)
    own = {path: fusion for path, fusion in fusions.items() if not isinstance(fusion, ConvFusion)}
    if own and trace is not None and trace.found:
        raise ValueError(
            f"the model has Fusions ({', '.join(own)}) and convolutions that read concatenations "
            f"({', '.join(trace.found)}): equalize the first by equalize_fusions(model, spec), the others by conv="
        )
    return own


@contextmanager
def _attached(model: nn.Module, fusions: Mapping[str, Fusion], spec: EqualizerSpec) -> Iterator[None]:
    """Attach equalizers to the model's Fusions, where it has any; they are taken off again if the context fails."""
    if fusions:
        equalize_fusions(model, spec)
    try:
        yield
    except BaseException:
        for fusion in fusions.values():
            fusion.equalizers = Equalizers()
        raise


@contextmanager
def _placed(model: nn.Module, fusions: Sequence[ConvFusion]) -> Iterator[None]:
    """Put Fusions into the places of their convolutions; these get them back if the context fails."""
    for fusion in fusions:
        exchange_module(model, fusion.conv, fusion)
    try:
        yield
    except BaseException:
        for fusion in fusions:
            exchange_module(model, fusion, fusion.conv)
        raise


def _fusion(
    model: nn.Module,
    name: str,
    chosen: Mapping[str, Mapping[str, int]],
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
        fusion = ConvFusion(conv, chosen[name], scale_invariant=reason)
        equalize_fusions(fusion, replace(spec, center=center))
        return fusion
    except ValueError as error:
        others = {other: list(parts.values()) for other, parts in chosen.items() if other != name}
        raise ValueError(f"{name}: {error}" + (f"; for the others alone: conv={others}" if others else "")) from error


def _refuse_model(model: nn.Module, spec: EqualizerSpec) -> None:
    kind = type(model).__name__
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)) or hasattr(model, "_orig_mod"):
        inner = "_orig_mod" if hasattr(model, "_orig_mod") else "module"
        raise ValueError(f"{kind} wraps the model: equalize the model itself (.{inner}), then wrap or compile it")
    if not isinstance(model, nn.Module):
        raise ValueError(f"the model is a {kind}, not an nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(f"{kind}: the model is scripted; equalize the nn.Module that it was made of")
    if isinstance(model, nn.Conv2d):
        raise ValueError("the model is a single convolution, whose place cannot be taken; put it into an nn.Sequential")
    if spec.balances_gradients:
        raise ValueError("equalize measures maps; statistic 'grad' needs losses: give your own Fusions to calibrate")


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
    if not isinstance(conv, (str, Mapping)):
        raise ValueError(
            f"conv is a {type(conv).__name__}; give the name of one convolution, or of several with their widths: "
            "conv={'decode_head.fusion.conv': [256, 48]}"
        )
    # One name, several with widths, or none.
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
    """Branch -> channels, named by their number where they have no names."""
    if isinstance(widths, str) or not isinstance(widths, (Mapping, Sequence)):
        raise ValueError(f"widths is {widths!r}; give a list of channels, or branch -> channels")
    named = dict(widths) if isinstance(widths, Mapping) else {f"branch{i}": w for i, w in enumerate(widths, 1)}
    for name in named:
        refuse_name(name)
    for name, width in named.items():
        if isinstance(width, bool) or not hasattr(type(width), "__index__"):
            raise ValueError(f"the width of branch {name!r} is {width!r}; give a number of channels")
    return {name: operator.index(width) for name, width in named.items()}


def _refuse_name(model: nn.Module, name: str) -> None:
    convs = convolutions_of(model)
    if name in convs:
        return
    # Not there: the nearest names.
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        near = nearest(name, convs, cutoff=0.5) or list(convs)[-4:]
        raise ValueError(f"the model has no module {name!r}; convolutions are {', '.join(near) or 'none'}")
    # A part of a Fusion: its Fusion is equalized.
    for path, fusion in fusions_of(model, equalized=False).items():
        if f"{name}.".startswith(f"{path}."):
            raise ValueError(
                f"{name} has scale equalizers already; begin with fold_equalizers(model)"
                if fusion.equalizers
                else f"{name} is a part of the Fusion {path}; equalize that by equalize_fusions(model, spec) instead"
            )
    # Another kind of module: the convolutions in it.
    inside = [path for path in convs if path.startswith(name + ".")][:4]
    raise ValueError(
        f"{name} is {type(modules[name]).__name__}, not an nn.Conv2d of its own"
        + (f"; it has {', '.join(inside)}" if inside else "")
    )


def _trace(model: nn.Module, loader: Iterable[Batch], take: Callable[[Batch], object]) -> Trace:
    # Run the model once, and watch.
    x = take(first_batch(loader))
    if isinstance(x, torch.Tensor) and not x.numel():
        raise ValueError(f"the first batch has no images: it is of shape {tuple(x.shape)}")
    try:
        trace = trace_concatenations(model, x)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        raise explained(error, model, x) from error
    if trace.unbatched:
        raise ValueError(f"{trace.unbatched} reads a map without a batch dimension: give batches (N, C, H, W)")
    return trace


def _chosen(model: nn.Module, named: dict[str, dict[str, int]], trace: Trace | None) -> dict[str, dict[str, int]]:
    """Convolution -> branch -> channels, in running order where that is known."""
    if trace is None:
        if not named or not all(named.values()):
            raise ValueError("without a loader nothing can be found: give conv and widths")
        return named
    # Named by the caller, or found.
    found = {name: _by_name(widths) for name, widths in trace.found.items()}
    if not named and not found:
        if equalized := fusions_of(model):
            raise ValueError(
                f"the model has scale equalizers already ({', '.join(equalized)}), and nothing else to equalize: "
                "measure these again by scaleeq.calibrate, or begin with fold_equalizers(model)"
            )
        raise ValueError(
            f"no convolution reads a concatenation of resized maps; name one: equalize(model, loader, conv='...', "
            f"widths=[...]). {trace.describe()}"
        )
    # In running order: each is measured with those before it equalized.
    chosen = {name: _checked(trace, name, parts) for name, parts in (named or found).items()}
    order = list(trace.calls)
    return dict(sorted(chosen.items(), key=lambda item: order.index(item[0])))


def _checked(trace: Trace, name: str, stated: dict[str, int]) -> dict[str, int]:
    """The branches of a convolution: as stated, which has to agree with the forward, or as that showed them."""
    # Where it runs.
    seen = trace.read[name][0] if name in trace.read else ()
    if name in trace.outside:
        raise ValueError(f"{name}: {trace.used_outside(name)}; read only its attributes there")
    if trace.calls[name] != 1:
        ran = f"runs {trace.calls[name]} times in a forward" if trace.calls[name] else "does not run in a forward"
        raise ValueError(f"{name} {ran}; an equalizer has one place")
    # What it reads, as stated and as seen.
    if not (stated or seen):
        why = f" (it {trace.not_followed[name]})" if name in trace.not_followed else ""
        raise ValueError(f"{name} reads no concatenation that could be followed{why}; give its widths")
    if stated and seen and sum(stated.values()) == sum(seen):
        ends, seen_ends = (set(accumulate(widths)) for widths in (stated.values(), seen))
        if not (ends <= seen_ends or ends >= seen_ends):
            raise ValueError(
                f"{name}: the widths are {in_words(tuple(stated.values()))}, but it reads maps of {in_words(seen)} "
                "channels; give them in that order, or leave widths out"
            )
        if ends < seen_ends:
            logger.warning(
                "%s reads maps of %s channels, and widths joins some: these keep their proportion", name, in_words(seen)
            )
    return stated or _by_name(seen)


def _gather() -> Gather | None:
    """What collects objects from all processes of a torch.distributed job; None where there is one."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return None

    def gather(value: T) -> list[T]:
        values = [value] * dist.get_world_size()
        dist.all_gather_object(values, value)
        return values

    return gather
