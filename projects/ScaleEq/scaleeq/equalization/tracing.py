"""Which convolutions of a model read a concatenation of resized maps, found by watching one forward.

following.py knows what maps a tensor holds; hooks know which module runs. A convolution is found where it
reads several maps side by side, of which at least one had just been resized when it was concatenated. What a model's
modules are called plays no part. Whatever else reads a concatenation is listed with the reason why it is passed over.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from scaleeq.fusion import Fusion
from scaleeq.layers import normalizes_channels

from .following import Follow, Joined, Known, tensors_of
from .function_names import MIXES, ONLY_SHAPES_READ
from .mode import measuring

NORMS = ("batch_norm", "instance_norm")  # give each channel a scale of its own
SHOWN = 8  # widths of a concatenation that are written out


@dataclass
class Trace:
    """What one forward showed.

    calls: convolution -> how many times it ran, in running order.
    read: convolution -> (widths, whether each had been resized) of the maps that it read side by side.
    not_followed: what read a concatenation in a way that cannot be equalized -> how.
    merged: convolution -> branch of it that is a concatenation whose trail had ended -> how.
    gates: convolutions whose output comes back, as a factor, to the maps that they read, and goes nowhere else.
    outside: convolution -> the function that used its weight outside of its own forward.
    concatenations: how many concatenations of maps over channels there were.
    followers: convolution -> the module that read what it made.
    unbatched: a convolution that read a map without a batch dimension.
    """

    calls: Counter[str] = field(default_factory=Counter)
    read: dict[str, tuple[tuple[int, ...], tuple[bool, ...]]] = field(default_factory=dict)
    not_followed: dict[str, str] = field(default_factory=dict)
    merged: dict[str, dict[str, str]] = field(default_factory=dict)
    gates: set[str] = field(default_factory=set)
    outside: dict[str, str] = field(default_factory=dict)
    concatenations: int = 0
    followers: dict[str, nn.Module] = field(default_factory=dict)
    unbatched: str = ""

    @property
    def found(self) -> dict[str, tuple[int, ...]]:
        """Convolution -> widths, of those that read maps side by side of which at least one was resized."""
        return {
            name: widths
            for name, (widths, resized) in self.read.items()
            if any(resized) and name not in self.gates and name not in self.outside
        }

    def passed_over(self, equalized: Collection[str]) -> dict[str, str]:
        """What reads a concatenation and is not in `equalized` -> what it reads, and why it is passed over."""
        reasons = {name: why for name, why in self.not_followed.items() if name not in equalized}
        for name, (widths, resized) in self.read.items():
            if name not in equalized:
                reasons[name] = f"reads {in_words(widths)} channels" + self._reason(name, any(resized))
        for name in filter(self.merged.__contains__, equalized):
            reasons |= {f"{name}, branch {number}": how for number, how in self.merged[name].items()}
        return reasons

    def _reason(self, name: str, resized: bool) -> str:
        if name in self.gates:
            return "; a gate: what it makes comes back to these maps as a factor"
        if name in self.outside:
            return f"; {self.used_outside(name)}"
        return ", not named" if resized else ", none of them resized directly before"

    def used_outside(self, name: str) -> str:
        """Why a convolution of `outside` cannot be equalized."""
        return f"its weight is used outside of its own forward, by {self.outside[name]}, where no equalizer would act"

    def scale_invariant(self, name: str, conv: nn.Conv2d) -> str:
        """Why a scale on an input channel of `conv` changes nothing; empty where it does."""
        follower = self.followers.get(name)
        if follower is None or not normalizes_channels(follower) or not 1 < conv.groups == conv.in_channels:
            return ""
        return "a depthwise convolution keeps channels apart, and the norm after it gives each its own scale back"

    def describe(self) -> str:
        """What was looked at, for a message."""
        read = [f"  {name} {why}" for name, why in self.passed_over(()).items()]
        counted = f"{len(self.calls)} convolutions ran, {self.concatenations} concatenations of maps were made"
        return "\n".join([counted + (":" if read else "; no convolution read one"), *read])


def convolutions_of(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Name -> convolution, of all that are not part of a Fusion: those are equalized by their Fusion."""
    inside = {module for fusion in model.modules() if isinstance(fusion, Fusion) for module in fusion.modules()}
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m not in inside}


@torch.no_grad()
def trace_concatenations(model: nn.Module, x: object) -> Trace:
    """Run model(x) in the state of a calibration, and see which of its convolutions read concatenations."""
    watch = _Watch(model)
    eager = getattr(torch.compiler, "set_stance", None)  # compiled parts can be watched only where they run as written
    stance = eager("force_eager") if eager else contextlib.nullcontext()
    watch.given(x)
    # Hooks of all modules: a scripted one takes none of its own.
    hooks = register_module_forward_pre_hook(watch.enter), register_module_forward_hook(watch.leave)
    with hooks[0], hooks[1], warnings.catch_warnings(), measuring(model), stance, watch.follow:
        warnings.filterwarnings("ignore", message=".*global hooks on modules")  # of a compiled part; they go again
        out = model(x)
    return watch.finish(out)


class _Watch:
    """Notes what each convolution, and whatever else mixes channels, reads."""

    def __init__(self, model: nn.Module):
        self.trace = Trace()
        self.follow = Follow(self.called)
        self.convs = convolutions_of(model)
        self.names = {module: name or type(model).__name__ for name, module in model.named_modules()}
        self.weights = {id(p): name for name, conv in self.convs.items() for p in conv.parameters(recurse=False)}
        self.fusion_of = {
            module: name
            for name, fusion in model.named_modules()
            if isinstance(fusion, Fusion)
            for module in fusion.modules()
        }
        self.equalized = {module for module, name in self.fusion_of.items() if model.get_submodule(name).equalizers}
        self.running: list[nn.Module] = []
        self.makers: dict[int, tuple[str, torch.Tensor]] = {}

    def given(self, x: object) -> None:
        """Take the model's input as seen."""
        self.follow.known.update({tensor: Known() for tensor in tensors_of(x)})

    def enter(self, module: nn.Module, args: tuple[object, ...]) -> None:
        if module not in self.names:
            return
        self.running.append(module)
        if (name := self.names[module]) in self.convs:
            self.trace.calls[name] += 1
        if args and id(args[0]) in self.makers and not list(module.children()):
            self.trace.followers.setdefault(self.makers[id(args[0])][0], module)

    def leave(self, module: nn.Module, args: tuple[object, ...], out: Any) -> None:
        if module not in self.names:
            return
        while self.running and self.running.pop() is not module:
            pass  # a module that was left by an exception
        name = self.names[module]
        if name in self.convs and self.convs[name].groups > 1:
            self.makers[id(out)] = name, out  # alive, so that no other tensor gets its id
        if unseen := [result for result in tensors_of(out) if not self.follow.seen(result)]:
            read = list(tensors_of(args))
            self.follow.end(unseen, read, f"{type(module).__name__}, which cannot be watched")
            self._reads_otherwise(module, read, f"; {type(module).__name__}, whose inside cannot be watched")

    def called(self, function: str, tensors: list[torch.Tensor]) -> frozenset[str]:
        """A function is called: what reads a concatenation in it, and whose weights it uses."""
        # The module in whose forward it is called.
        reader = self.running[-1] if self.running else None
        self._uses_weights(function, reader, tensors)
        if function not in MIXES or reader is None or reader in self.equalized:
            return frozenset()
        name = self.names[reader]
        # A convolution that can be equalized.
        if function == "conv2d" and name in self.convs and tensors:
            return self._convolved(name, tensors[0])
        # All others: why not.
        kind, owner = type(reader).__name__, next((self.weights[id(t)] for t in tensors if id(t) in self.weights), "")
        if owner and reader is not self.convs[owner]:
            reader, why = (
                self.convs[owner],
                f"; {function}, called by {kind} with its weight, where no equalizer would act",
            )
        elif reader in self.fusion_of:
            why = f"; a part of the Fusion {self.fusion_of[reader]}, which can be given an EqualizerSpec"
        elif not list(reader.children()) and not isinstance(reader, nn.Conv2d):
            why = f"; {kind}: scale equalizers are made for nn.Conv2d"
        else:
            why = f"; {function}, called by {kind}: scale equalizers are made for nn.Conv2d"
        self._reads_otherwise(reader, [t for t in tensors if id(t) not in self.weights], why)
        return frozenset()

    def _uses_weights(self, function: str, reader: nn.Module | None, tensors: list[torch.Tensor]) -> None:
        if function in ONLY_SHAPES_READ:
            return
        for tensor in tensors[:1] if function in ("to", "type_as") else tensors:
            owner = self.weights.get(id(tensor), "")
            if owner and reader is not self.convs[owner]:
                self.trace.outside.setdefault(owner, function)

    def _convolved(self, name: str, x: torch.Tensor) -> frozenset[str]:
        # Notes on the input.
        known = self.follow.of(x)
        if x.dim() == 3:
            self.trace.unbatched = self.trace.unbatched or name
        if not self.follow.seen(x):
            self.trace.not_followed.setdefault(name, "reads a map that was made by code that cannot be watched")
        if not known.joined:
            return frozenset()
        # Do the maps lie side by side in its channels?
        runs = known.runs(1)
        if known.ended:
            self.trace.not_followed.setdefault(name, _ended(known))
        elif runs is None or len({one for _, one in runs}) < len(runs):
            count = len(known.maps)
            self.trace.not_followed.setdefault(
                name, f"reads {count} maps, which do not lie side by side in its channels"
            )
        else:
            # They do: which had been resized, and which are concatenations themselves.
            widths, maps = zip(*runs, strict=True)
            merged = {n: self.follow.joined.merged.get(one, Known()) for n, one in enumerate(maps, 1)}
            notes = {str(n): f"{_ended(one)}, as one map" for n, one in merged.items() if one.ended not in ("", *NORMS)}
            self.trace.merged |= {name: notes} if notes else {}
            self.trace.read.setdefault(name, (widths, tuple(one in self.follow.joined.resized for one in maps)))
        self.follow.joined.read[name] = known.maps
        return frozenset((name,))

    def _reads_otherwise(self, reader: nn.Module, tensors: list[torch.Tensor], why: str) -> None:
        known = next((known for tensor in tensors if (known := self.follow.of(tensor)).joined), None)
        if known is not None:
            what = _ended(known) if known.ended else f"reads {_maps(known)}"
            self.trace.not_followed.setdefault(self.names[reader], what + why)

    def finish(self, out: object) -> Trace:
        """The trace, once the forward has given `out`."""
        reaching = frozenset().union(*(self.follow.of(t).through for t in tensors_of(out)))
        joined: Joined = self.follow.joined
        self.trace.gates = joined.gates - reaching
        self.trace.concatenations = joined.concatenations
        return self.trace


def _ended(known: Known) -> str:
    if known.ended.startswith("a "):
        return f"reads {known.ended}, one of them a concatenation of {_maps(known)}"
    why = ", which gives each channel a scale of its own" if known.ended in NORMS else ""
    return f"reads {_maps(known)} through {known.ended}{why}"


def _maps(known: Known) -> str:
    return f"{in_words(known.widths)} channels" if known.widths else f"{len(known.maps)} maps"


def in_words(widths: tuple[int, ...]) -> str:
    """Widths of a concatenation, the first few where there are many."""
    if len(widths) <= SHOWN:
        return " + ".join(map(str, widths))
    return f"{' + '.join(map(str, widths[:SHOWN]))} + ... ({len(widths)} maps, {sum(widths)} in all)"
