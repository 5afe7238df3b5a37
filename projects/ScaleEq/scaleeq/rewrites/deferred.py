"""Maps whose resize is put off until a convolution reads them, which then evaluates each at its own resolution.

Inside `Deferring`, F.interpolate gives a DeferredTensor, torch.cat of such ones and of plain maps gives another, and a
convolution consumes it (ops/resized_conv.py). Any other operation gets the plain tensor, made at that moment as it
would have been, so that no answer changes. What no torch function sees (an autograd Function, an operator of an
extension) gets it too: a DeferredTensor has no memory of its own, and its gradient is handed on to its sources.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from scaleeq.ops.resized_conv import ResizedMap, resized_conv2d

from .calls import (
    CONVOLUTIONS,
    JOINS,
    METADATA,
    Arguments,
    Convolution,
    Function,
    Keywords,
    Resize,
    changes_in_place,
    convolution_of,
    hands_on,
    is_plain,
    join_of,
    resize_of,
    tensors_in,
)
from .paying import LIMIT, cost_ratio

Map = Resize | torch.Tensor
T = TypeVar("T")


def runs(frame: FrameType) -> bool:
    """Whether the frame is one of those that called this function."""
    here: FrameType | None = sys._getframe(1)
    while here is not None and here is not frame:
        here = here.f_back
    return here is not None


@dataclass
class Call:
    """One forward of a region: what its convolutions may do, and what they did.

    allowed: for each convolution that reads a deferred map, in running order, whether it may be evaluated per branch.
    frame: of the forward; once it has ended, nothing is put off any more.
    limit: of the estimated cost, as a part of the plain one, up to which a convolution is evaluated per branch.
    seen, paid, refused: convolutions that read a deferred map; that were evaluated per branch; that cost too much.
    sizes: of what the region was called with.
    pending: what was put off.
    """

    allowed: Sequence[bool]
    frame: FrameType | None
    limit: float = LIMIT
    seen: int = 0
    paid: int = 0
    refused: int = 0
    sizes: object = None
    pending: list[weakref.ref[Deferred]] = field(default_factory=list)

    def may_consume(self) -> bool:
        """Whether the next convolution that reads a deferred map may be evaluated per branch."""
        self.seen += 1
        return self.running and self.seen <= len(self.allowed) and self.allowed[self.seen - 1]

    @property
    def running(self) -> bool:
        """Whether the forward has not ended."""
        return self.frame is not None and runs(self.frame)


class Deferred:
    """Maps (N, C_i, H, W) side by side, of which some are still to be resized."""

    def __init__(self, maps: list[Map], call: Call, joined: bool):
        self.maps = maps
        self.call = call
        self.joined = joined
        self.value: torch.Tensor | None = None
        self.state = _state(self.sources[0])
        self.versions = [_version(x) for x in self.sources]
        call.pending.append(weakref.ref(self))

    @property
    def sources(self) -> list[torch.Tensor]:
        """The map or, of a resized one, what it is resized from."""
        return [m.x if isinstance(m, Resize) else m for m in self.maps]

    @property
    def shape(self) -> tuple[int, ...]:
        size = next((m.size for m in self.maps if isinstance(m, Resize)), None) or self.sources[0].shape[-2:]
        return (self.sources[0].shape[0], sum(x.shape[1] for x in self.sources), *size)

    def tensor(self) -> torch.Tensor:
        """The plain tensor; always the same one."""
        if self.value is None:
            with _within(self.state, self.sources[0].device.type):
                self.value = self.made(self.sources)
        return self.value

    def made(self, sources: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the maps are with these sources."""
        self.check_unchanged()
        with torch._C.DisableTorchFunction():
            parts = [
                F.interpolate(x, **m.how) if isinstance(m, Resize) else x
                for m, x in zip(self.maps, sources, strict=True)
            ]
            return torch.cat(parts, 1) if self.joined else parts[0]

    def check_unchanged(self) -> None:
        """RuntimeError where something that no torch function saw wrote into a map whose resize was put off."""
        if self.versions != [_version(x) for x in self.sources]:
            raise RuntimeError(
                "a map was changed in place after it was resized, by code that scaleeq.accelerate cannot see: "
                "run this model without it (scaleeq.plain(model))"
            )


def _version(x: torch.Tensor) -> int:
    return -1 if x.is_inference() else x._version


def _state(x: torch.Tensor) -> tuple[bool, bool, bool, torch.dtype]:
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast, torch.get_autocast_dtype(kind)


@contextmanager
def _within(state: tuple[bool, bool, bool, torch.dtype], device: str) -> Iterator[None]:
    """The state in which the map would have been made, also where the one who reads it is in another."""
    grad, inference, autocast, dtype = state
    with ExitStack() as stack:
        if inference != torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(inference))
        if grad != torch.is_grad_enabled():
            stack.enter_context(torch.set_grad_enabled(grad))
        if (autocast, dtype) != (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)):
            stack.enter_context(torch.autocast(device, dtype=dtype, enabled=autocast))
        yield


class _Connected(torch.autograd.Function):
    """The tensor of a Deferred, as a node of the graph: a gradient that reaches it goes on to the sources."""

    @staticmethod
    def forward(ctx: Any, deferred: Deferred, *sources: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.deferred = deferred
        return _wrapper(deferred)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            sources = [x.detach().requires_grad_() for x in ctx.deferred.sources]
            made = ctx.deferred.made(sources)
        return None, *torch.autograd.grad(made, sources, grad)


def _wrapper(deferred: Deferred) -> DeferredTensor:
    like = deferred.sources[0]
    tensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
        DeferredTensor, deferred.shape, dtype=like.dtype, device=like.device
    )
    tensor.deferred = deferred
    return tensor


class DeferredTensor(torch.Tensor):
    """A tensor that is made when somebody reads it."""

    deferred: Deferred

    @staticmethod
    def of(maps: list[Map], call: Call, joined: bool) -> torch.Tensor:
        """The maps, side by side."""
        deferred = Deferred(maps, call, joined)
        if torch.is_grad_enabled() and any(x.requires_grad for x in deferred.sources):
            return _Connected.apply(deferred, *deferred.sources)  # type: ignore[no-any-return]
        return _wrapper(deferred)

    @classmethod
    def __torch_function__(
        cls, func: Function, types: object, args: Arguments = (), kwargs: Keywords | None = None
    ) -> object:
        """Any function: metadata at once, what stays deferred, what consumes; all others get plain tensors."""
        kwargs = kwargs or {}
        if func in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        result: object = None
        if func in JOINS:
            result = _joined(args, kwargs)
        elif func in CONVOLUTIONS:
            result = _convolved(args, kwargs)
        elif hands_on(func, args, kwargs) and (deferred := deferred_of(args[0] if args else None)):
            result = args[0] if func is not F.pad else DeferredTensor.of(deferred.maps, deferred.call, deferred.joined)
        if result is None:
            args, kwargs = plain_tensors((tuple(args), dict(kwargs)))
            result = func(*args, **kwargs)
        return result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Function, types: object, args: Arguments = (), kwargs: Keywords | None = None
    ) -> object:
        """An operator that was called beside torch's functions: it gets the values; autograd stands above."""
        if func._schema.is_mutable:  # type: ignore[attr-defined]
            raise RuntimeError(
                f"{func} writes into a map whose resize scaleeq.accelerate had put off: run this model without it "
                "(scaleeq.plain(model))"
            )
        args, kwargs = tree_map_only(DeferredTensor, _values, (tuple(args), dict(kwargs or {})))
        return func(*args, **kwargs)

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        return repr(self.deferred.tensor())


def _values(x: DeferredTensor) -> torch.Tensor:
    deferred = x.deferred
    return deferred.made([s.detach() for s in deferred.sources]) if deferred.value is None else deferred.value.detach()


def deferred_of(x: object) -> Deferred | None:
    """The Deferred of a tensor that has not been made yet."""
    return x.deferred if isinstance(x, DeferredTensor) and x.deferred.value is None else None


def plain_tensors(tree: T) -> T:
    """The same arguments or results, with every deferred tensor made."""
    return tree_map_only(DeferredTensor, lambda x: x.deferred.tensor(), tree)


def _joined(args: Arguments, kwargs: Keywords) -> torch.Tensor | None:
    tensors = join_of(args, kwargs)
    if tensors is None:
        return None
    maps: list[Map] = []
    call = None
    for t in tensors:
        if deferred := deferred_of(t):
            maps += deferred.maps
            call = deferred.call
        else:
            maps.append(t.deferred.tensor() if isinstance(t, DeferredTensor) else t)
    if call is None or not all(is_plain(m) for m in maps if not isinstance(m, Resize)):
        return None
    return DeferredTensor.of(maps, call, joined=True)


def _convolved(args: Arguments, kwargs: Keywords) -> torch.Tensor | None:
    """The convolution of a deferred map, per branch; None: evaluate it plainly."""
    deferred = deferred_of(args[0] if args else kwargs.get("input"))
    if deferred is None:
        return None
    allowed = deferred.call.may_consume()
    conv = convolution_of(args, kwargs)
    if not allowed or isinstance(conv, str) or deferred.state != _state(deferred.sources[0]):
        return None
    if not deferred.state[2] and {x.dtype for x in deferred.sources} != {conv.weight.dtype}:
        return None
    shapes = [tuple(x.shape) for x in deferred.sources]
    if cost_ratio(shapes, conv.weight.shape, deferred.shape[-2:]) > deferred.call.limit:
        deferred.call.refused += 1
        return None
    deferred.call.paid += 1
    deferred.check_unchanged()
    return _per_branch(deferred, conv)


def _per_branch(deferred: Deferred, conv: Convolution) -> torch.Tensor:
    maps = [ResizedMap(m.x, m.mode) if isinstance(m, Resize) else ResizedMap(m) for m in deferred.maps]
    height, width = deferred.shape[-2:]
    with torch._C.DisableTorchFunctionSubclass():
        result = resized_conv2d(maps, conv.weight, conv.bias, size=(height, width), dilation=conv.dilation)
    # In the layout that the convolution would have given.
    last = torch.channels_last
    given = [*deferred.sources, conv.weight] if deferred.joined else [deferred.sources[0], conv.weight]
    is_last = any(x.is_contiguous(memory_format=last) and not x.is_contiguous() for x in given)
    return result.contiguous(memory_format=last if is_last else torch.contiguous_format)


class Deferring(TorchFunctionMode):
    """Inside, resizes are put off, as long as the frame of `call` runs."""

    def __init__(self, call: Call):
        super().__init__()
        self.call = call

    def __torch_function__(
        self, func: Function, types: object, args: Arguments = (), kwargs: Keywords | None = None
    ) -> object:
        kwargs = kwargs or {}
        if func is F.interpolate:
            args, kwargs = plain_tensors((tuple(args), dict(kwargs)))
            resize = resize_of(args, kwargs)
            if resize is not None and is_plain(resize.x) and self.call.running:
                return DeferredTensor.of([resize], self.call, joined=False)
        elif self.call.pending and changes_in_place(func, args, kwargs):
            self._make_before_change((args, kwargs))
        return func(*args, **kwargs)

    def _make_before_change(self, given: Iterable[object]) -> None:
        """Make what is still to be read from a map that is about to be written into."""
        written = set()
        for given_tensor in tensors_in(given):
            x = given_tensor.deferred.value if isinstance(given_tensor, DeferredTensor) else given_tensor
            if x is not None and x.layout is torch.strided:
                written.add(x.untyped_storage()._cdata)
        for ref in self.call.pending:
            deferred = ref()
            if deferred is None or deferred.value is not None:
                continue
            if any(x.untyped_storage()._cdata in written for x in deferred.sources):
                deferred.tensor()
