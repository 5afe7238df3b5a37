"""Which convolutions of a model read resized maps, seen in one forward that runs as it always did.

Each is followed from F.interpolate over torch.cat to F.conv2d, together with the modules that were running, so that
the smallest module that holds all three is known: its region. Outside of regions nothing has to be put off.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from .calls import (
    CONVOLUTIONS,
    JOINS,
    METADATA,
    Arguments,
    Function,
    Keywords,
    changes_in_place,
    convolution_of,
    hands_on,
    is_plain,
    join_of,
    resize_of,
    tensors_in,
)
from .paying import LIMIT, cost_ratio
from .report import AccelerationReport, FoundFusion


@dataclass(frozen=True)
class Region:
    """What a module's forwards may put off.

    allowed: for each convolution in it that reads a deferred map, in running order, whether it is evaluated per branch.
    touched: path inside the module -> class, of the modules that such a map goes into or comes out of.
    """

    allowed: tuple[bool, ...]
    touched: dict[str, type]


@dataclass(eq=False)
class _Forward:
    """One forward of a module, inside another."""

    path: str
    module: nn.Module
    outer: _Forward | None

    def lineage(self) -> Iterator[_Forward]:
        """This one, and those around it, inside out."""
        forward: _Forward | None = self
        while forward is not None:
            yield forward
            forward = forward.outer


@dataclass(eq=False)
class _Seen:
    """A map that has just been resized, or a concatenation with such ones."""

    maps: list[tuple[tuple[int, ...], tuple[int, ...]]]  # shape before its resize, shape after, of each map
    made_in: list[_Forward]  # where its resizes ran
    within: list[_Forward]  # the same and where it was concatenated
    sources: list[tuple[TensorWeakRef, int]]
    joined: bool = False
    parts: list[_Seen] = field(default_factory=list)  # of a concatenation
    read_by: str = ""
    changed: bool = False


@dataclass(eq=False)
class _Reading:
    """A convolution that reads such a map."""

    name: str
    seen: _Seen
    within: _Forward
    weight: tuple[int, ...]
    why_not: str


class Watch(TorchFunctionMode):
    """Follows resized maps through a forward of `model`, which runs plainly."""

    def __init__(self, model: nn.Module, limit: float = LIMIT):
        super().__init__()
        self.model = model
        self.limit = limit
        self.paths = {module: path for path, module in model.named_modules()}
        self.running = _Forward("", model, None)
        self.known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.all_seen: list[_Seen] = []
        self.readings: list[_Reading] = []
        self.touched: dict[str, type] = {}
        self.passed_over: dict[str, str] = {}
        self.thread = threading.get_ident()
        self.hooks: list[RemovableHandle] = []

    # --- the forward begins and ends ---

    def begin(self) -> None:
        self.hooks = [register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave)]
        self.__enter__()

    def end(self) -> None:
        self.__exit__(None, None, None)
        self.unhook()

    def unhook(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _enter(self, module: nn.Module, args: tuple[object, ...]) -> None:
        if module in self.paths and threading.get_ident() == self.thread:
            self.running = _Forward(self.paths[module], module, self.running)
            self._touches(args)

    def _leave(self, module: nn.Module, args: tuple[object, ...], out: object) -> None:
        if module not in self.paths or threading.get_ident() != self.thread:
            return
        frame = next((f for f in self.running.lineage() if f.module is module and f.outer is not None), None)
        if frame is not None and frame.outer is not None:
            self.running = frame
            self._touches([out])
            self.running = frame.outer

    def _touches(self, values: Iterable[object]) -> None:
        if any(t in self.known and not self.known[t].read_by for t in tensors_in(list(values))):
            self.touched[self.running.path] = type(self.running.module)

    # --- functions ---

    def __torch_function__(
        self, func: Function, types: object, args: Arguments = (), kwargs: Keywords | None = None
    ) -> object:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if threading.get_ident() == self.thread and func not in METADATA:
            self._note(func, args, kwargs, out)
        return out

    def _note(self, func: Function, args: Arguments, kwargs: Keywords, out: object) -> None:
        if changes_in_place(func, args, kwargs):
            self._changed([args, kwargs])
        read = [self.known[t] for t in tensors_in([args, kwargs]) if t in self.known]
        if func is F.interpolate:
            self._read(read, "interpolate")
            self._resized(args, kwargs, out)
        elif not read:
            return
        elif func in CONVOLUTIONS and not read[0].read_by:
            self._convolved(args, kwargs, read[0])
        elif func in JOINS and (tensors := join_of(args, kwargs)) and all(map(is_plain, tensors)):
            self._joined(tensors, out)
        elif hands_on(func, args, kwargs):
            self.known[out] = read[0]
        else:
            self._read(read, getattr(func, "__name__", str(func)))

    def _read(self, read: Iterable[_Seen], function: str) -> None:
        for seen in read:
            seen.read_by = seen.read_by or function

    def _resized(self, args: Arguments, kwargs: Keywords, out: object) -> None:
        resize = resize_of(args, kwargs)
        if resize is not None and is_plain(resize.x) and isinstance(out, torch.Tensor):
            shapes = tuple(resize.x.shape), tuple(out.shape)
            here = [self.running]
            self._keep(out, _Seen([shapes], here, here, [_versioned(resize.x)]))

    def _joined(self, tensors: Sequence[torch.Tensor], out: object) -> None:
        joined = _Seen([], [], [self.running], [], joined=True)
        for t in tensors:
            seen = self.known.get(t)
            if seen is None or seen.read_by:
                joined.maps.append((tuple(t.shape), tuple(t.shape)))
                joined.sources.append(_versioned(t))
            else:
                joined.parts.append(seen)
                joined.maps += seen.maps
                joined.made_in += seen.made_in
                joined.within += seen.within
                joined.sources += seen.sources
        if joined.made_in and isinstance(out, torch.Tensor):
            self._keep(out, joined)

    def _keep(self, out: torch.Tensor, seen: _Seen) -> None:
        self.known[out] = seen
        self.all_seen.append(seen)

    def _changed(self, given: Iterable[object]) -> None:
        written = {_storage(t) for t in tensors_in(given)} - {0}
        for seen in self.all_seen:
            for ref, _ in seen.sources:
                source = ref()
                if source is not None and _storage(source) in written:
                    seen.changed = True

    def _convolved(self, args: Arguments, kwargs: Keywords, seen: _Seen) -> None:
        conv = convolution_of(args, kwargs)
        given = args[1] if len(args) > 1 else kwargs["weight"]
        assert isinstance(given, torch.Tensor)
        why_not = conv if isinstance(conv, str) else ""
        name = self.running.path or type(self.model).__name__
        self.readings.append(_Reading(name, seen, self.running, tuple(given.shape), why_not))

    # --- what was seen ---

    def finish(self) -> tuple[dict[str, Region], AccelerationReport]:
        """Regions, by the path of their module, and a report in words."""
        for seen in self.all_seen:
            for ref, version in seen.sources:
                source = ref()
                seen.changed |= source is not None and _versioned(source)[1] != version
        report = AccelerationReport()
        good = []
        for reading in self.readings:
            reading.why_not = reading.why_not or _spoiled(reading.seen)
            if reading.why_not:
                report.passed_over[reading.name] = reading.why_not
            else:
                good.append(reading)
                report.fusions[reading.name] = _found(reading, self.limit)
        for name in report.passed_over:
            report.fusions.pop(name, None)
        return self._regions([r for r in good if r.name in report.fusions]), report

    def _regions(self, readings: list[_Reading]) -> dict[str, Region]:
        chosen = {_smallest(reading) for reading in readings}
        outermost = [f for f in chosen if not any(outer in chosen for outer in f.lineage() if outer is not f)]
        good = set(readings)
        allowed: dict[str, list[bool]] = {}
        for forward in outermost:
            here = [
                reading in good
                for reading in self.readings
                if any(forward in made.lineage() for made in reading.seen.made_in)
            ]
            before = allowed.get(forward.path)
            if before is not None:  # another forward of the same module
                pairs = zip(before + [True] * len(here), here + [True] * len(before), strict=False)
                here = [a and b for a, b in pairs][: max(len(here), len(before))]
            allowed[forward.path] = here
        return {path: Region(tuple(here), self._touched_in(path)) for path, here in allowed.items()}

    def _touched_in(self, region: str) -> dict[str, type]:
        start = f"{region}." if region else ""
        return {p[len(start) :]: kind for p, kind in self.touched.items() if p.startswith(start) and p != region}


def _versioned(x: torch.Tensor) -> tuple[TensorWeakRef, int]:
    return TensorWeakRef(x), -1 if x.is_inference() else x._version


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata if x.layout is torch.strided and is_plain(x) else 0


def _spoiled(seen: _Seen) -> str:
    if seen.read_by:
        return f"what it reads is also read by {seen.read_by}"
    if seen.changed:
        return "a map that it reads is changed in place after its resize"
    return next(filter(None, map(_spoiled, seen.parts)), "")


def _smallest(reading: _Reading) -> _Forward:
    """The innermost forward in which all of it runs: resizes, concatenations, convolution."""
    others = [set(forward.lineage()) for forward in reading.seen.within]
    return next(f for f in reading.within.lineage() if all(f in lineage for lineage in others))


def _found(reading: _Reading, limit: float) -> FoundFusion:
    shapes = [before for before, _ in reading.seen.maps]
    size = reading.seen.maps[0][1][-2:]
    ratio = cost_ratio(shapes, reading.weight, size)
    return FoundFusion(
        widths=tuple(shape[1] for shape in shapes),
        sizes=tuple((shape[2], shape[3]) for shape in shapes),
        size=(size[0], size[1]),
        kernel=reading.weight[-1],
        out_channels=reading.weight[0],
        estimate=ratio,
        pays=ratio <= limit,
    )
