"""Which convolutions of a model read a concatenation of resized maps, found by watching one forward.

Own design: torch's function mode sees every call of torch.cat and F.interpolate in eager mode, hooks see what every
nn.Conv2d reads. Between a resizing, the concatenation and the convolution only functions that keep the channels apart
may act: dropout, casts, activations. What a model's modules are called plays no part.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ..fusion import Fusion
from ..layers import normalizes_channels
from .mode import measuring

CATS = (torch.cat, torch.concat, torch.concatenate)
CASTS = ("to", "type", "type_as", "float", "double", "half", "bfloat16")
VIEWS = ("contiguous", "clone", "detach", "view", "reshape")
DROPOUTS = ("dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
ACTIVATIONS = ("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "gelu", "silu", "hardswish")
KEEPING = frozenset((*CASTS, *VIEWS, *DROPOUTS, *ACTIVATIONS))


@dataclass(frozen=True)
class _Map:
    """What is known of a tensor: how many times its pixels it got by resizing; widths and ratios of its parts."""

    ratio: float = 1.0
    widths: tuple[int, ...] = ()
    ratios: tuple[float, ...] = ()


@dataclass
class Trace:
    """What one forward showed.

    calls: convolution -> how many times it ran, in running order.
    read: convolution -> (widths, ratios of pixels by resizing) of the concatenation that it read.
    concatenations: the widths of all concatenations of maps over channels.
    followers: convolution -> the module that read what it made.
    """

    calls: Counter[str] = field(default_factory=Counter)
    read: dict[str, tuple[tuple[int, ...], tuple[float, ...]]] = field(default_factory=dict)
    concatenations: list[tuple[int, ...]] = field(default_factory=list)
    followers: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def found(self) -> dict[str, tuple[int, ...]]:
        """Convolution -> widths, of those that read a concatenation in which at least one map was resized."""
        return {name: widths for name, (widths, ratios) in self.read.items() if set(ratios) != {1.0}}

    def scale_invariant(self, name: str, conv: nn.Conv2d) -> str:
        """Why a scale on an input channel of `conv` changes nothing; empty where it does."""
        follower = self.followers.get(name)
        if follower is None or not normalizes_channels(follower) or not 1 < conv.groups == conv.in_channels:
            return ""
        return "a depthwise convolution keeps channels apart, and the norm behind it gives each its own scale back"

    def describe(self) -> str:
        """What was looked at, for a message."""
        read = [
            f"  {name} reads {' + '.join(map(str, widths))} channels"
            + ("" if set(ratios) != {1.0} else ", none of them resized directly before")
            for name, (widths, ratios) in self.read.items()
        ]
        counted = f"{len(self.calls)} convolutions ran, {len(self.concatenations)} concatenations of maps were made"
        return "\n".join([counted + (":" if read else "; no convolution read one"), *read])


class _Watch(TorchFunctionMode):
    """Follows resized and concatenated maps through the functions that keep their channels apart."""

    def __init__(self, trace: Trace):
        super().__init__()
        self.trace = trace
        self.maps: dict[int, _Map] = {}
        self.kept: list[torch.Tensor] = []  # alive, so that no other tensor gets the id of one of them

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not isinstance(out, torch.Tensor) or out.dim() != 4:
            return out
        if func in CATS:
            bound = dict(zip(("tensors", "dim"), args, strict=False)) | kwargs
            self._concatenated(out, bound["tensors"], bound.get("dim", 0))
        elif func is F.interpolate or getattr(func, "__name__", "") in KEEPING:
            source = args[0] if args else kwargs.get("input")
            self._passed(out, source, resized=func is F.interpolate)
        return out

    def _concatenated(self, out: torch.Tensor, parts: Any, dim: int) -> None:
        if dim in (1, -3) and len(parts) > 1:
            ratios = tuple(self.maps.get(id(part), _Map()).ratio for part in parts)
            self.keep(out, _Map(widths=tuple(part.shape[1] for part in parts), ratios=ratios))
            self.trace.concatenations.append(self.maps[id(out)].widths)

    def _passed(self, out: torch.Tensor, source: Any, *, resized: bool) -> None:
        if not isinstance(source, torch.Tensor) or source.dim() != 4 or source.shape[:2] != out.shape[:2]:
            return
        before = self.maps.get(id(source), _Map())
        ratio = before.ratio * (out.numel() / source.numel() if resized else 1.0)
        if (before.widths or ratio != 1.0) and (resized or source.shape == out.shape):
            self.keep(out, _Map(ratio, before.widths, before.ratios))

    def keep(self, tensor: torch.Tensor, known: _Map) -> None:
        self.maps[id(tensor)] = known
        self.kept.append(tensor)


def convolutions_of(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Name -> convolution, of all that are not part of a Fusion: those are equalized by their Fusion."""
    inside = {module for fusion in model.modules() if isinstance(fusion, Fusion) for module in fusion.modules()}
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m not in inside}


@torch.no_grad()
def trace_concatenations(model: nn.Module, x: Any) -> Trace:
    """Run model(x) in the state of a calibration, and see which of its convolutions read concatenations."""
    trace, convs = Trace(), convolutions_of(model)
    watch = _Watch(trace)
    makers: dict[int, str] = {}
    names = {conv: name for name, conv in convs.items()}

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0] if args else None
        if id(x) in makers:
            trace.followers.setdefault(makers[id(x)], module)
        if (name := names.get(module)) is not None:  # type: ignore[call-overload]
            trace.calls[name] += 1
            if known := watch.maps.get(id(x)):
                trace.read.update({name: (known.widths, known.ratios)} if known.widths else {})

    def leave(module: nn.Module, args: tuple[Any, ...], out: torch.Tensor) -> None:
        conv = names[module]  # type: ignore[index]
        if convs[conv].groups > 1:
            makers[id(out)] = conv
            watch.kept.append(out)

    readers = [m for m in model.modules() if m in names or not list(m.children())]
    handles = [module.register_forward_pre_hook(enter) for module in readers]
    handles += [conv.register_forward_hook(leave) for conv in names]
    try:
        with measuring(model), watch:
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return trace
