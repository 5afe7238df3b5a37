"""Which map each channel of a tensor came from, followed through a forward.

Torch's function mode sees every call in eager mode. Beside a tensor stand labels: for each element, the
number of the map that it came from, kept as small as they can be broadcast from. What moves values (a concatenation, a
slice, a permutation, a padding) is applied to the labels as well; so nested concatenations, stacks, crops and maps kept
from earlier layers need no rule of their own. What acts on each element or each channel alone keeps the labels; so does
a product with a gate. All else ends the trail of a concatenation, and its name is kept for the report.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from .function_names import (
    JOINS,
    MIXES,
    MOVES,
    ONLY_SHAPES_READ,
    POINTWISE,
    PRODUCTS,
    REDUCTIONS,
    RESIZINGS,
    SHAPES,
    SIGMOIDS,
    SPATIAL,
    SUMS,
)


@dataclass(frozen=True)
class Known:
    """What is known of a tensor.

    labels: of its dimensions, broadcastable to its shape, float32; 0 where it was padded. None: not asked for yet.
    stretched: it came out of a resizing, and has not been concatenated since.
    gate: it came out of a sigmoid, a tanh or a softmax.
    ended: in words, what the trail of a concatenation ended in; empty where there was none or it goes on. Labels beside
        it say which channels will be branches of their own in a later concatenation; without, it is one map there.
    widths, maps: of the concatenation, where the trail has ended or the labels are those of one.
    through: convolutions that read a concatenation, and from whose output it was computed.
    """

    labels: torch.Tensor | None = None
    stretched: bool = False
    gate: bool = False
    ended: str = ""
    widths: tuple[int, ...] = ()
    maps: frozenset[int] = frozenset()
    through: frozenset[str] = frozenset()

    @property
    def joined(self) -> bool:
        """Whether it holds several maps side by side, or did until the trail ended."""
        return len(self.maps) > 1

    def runs(self, dim: int) -> list[tuple[int, int]] | None:
        """(width, map) of the maps along one dimension; None where they differ along another one too."""
        if self.labels is None or any(size > 1 for d, size in enumerate(self.labels.shape) if d != dim):
            return None
        return _runs(self.labels)


@dataclass
class Joined:
    """What the forward showed of gates.

    resized: maps of a concatenation that had just been resized.
    read: convolution -> the maps that it read.
    gates: convolutions whose output came back to the maps that they read as a factor.
    merged: map -> what is known of the concatenation that it is, because the trail of that had ended.
    """

    resized: set[int] = field(default_factory=set)
    read: dict[str, frozenset[int]] = field(default_factory=dict)
    gates: set[str] = field(default_factory=set)
    merged: dict[int, Known] = field(default_factory=dict)
    concatenations: int = 0


@dataclass(frozen=True)
class Call:
    """One call of a function of torch: its name, what it was called with, what came out, and the tensors read."""

    name: str
    func: Callable[..., object]
    args: tuple[Any, ...]
    kwargs: dict[str, object]
    out: Any
    tensors: list[torch.Tensor]

    def argument(self, place: int, name: str, default: Any) -> Any:
        """Of that place or name, as the caller gave it."""
        return self.kwargs.get(name, self.args[place] if len(self.args) > place else default)


class Follow(TorchFunctionMode):
    """Follows maps through the functions of a forward.

    called: told the name of each function and its tensors; returns convolutions that the result is computed through,
        besides those that its arguments were.
    """

    def __init__(self, called: Callable[[str, list[torch.Tensor]], frozenset[str]]):
        super().__init__()
        self.joined = Joined()
        self.known = WeakTensorKeyDictionary()
        self.called = called
        self._numbers = itertools.count(1)
        self._rules: dict[str, Callable[[Call], dict[torch.Tensor, Known]]] = {
            **dict.fromkeys(REDUCTIONS, self._reduce),
            **dict.fromkeys(PRODUCTS | SUMS, self._combine),
            **dict.fromkeys(SPATIAL | POINTWISE, self._keep),
            **dict.fromkeys(MOVES, self._move),
            **dict.fromkeys(JOINS, self._join),
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # A property such as .T is a descriptor's __get__.
        name = getattr(func, "__name__", "")
        name = getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else name
        name = name.strip("_")
        # Writes into a buffer, which no result tells of.
        if name == "setitem":
            self._written(args[0], lambda labels: labels[args[1]], args[2])
        elif name == "copy" and args[0]._base is not None:
            view, base = args[0], args[0]._base
            layout = (view.shape, view.stride(), view.storage_offset() - base.storage_offset())
            self._written(base, lambda labels: labels.as_strided(*layout), args[1])
        elif results := list(tensors_of(out)):
            kwargs = kwargs or {}
            read = list(tensors_of((args, {key: value for key, value in kwargs.items() if key != "out"})))
            self._called(Call(name, func, args, kwargs, out, read), results)
        return out

    def of(self, tensor: torch.Tensor) -> Known:
        """What is known of a tensor; nothing for one that has not been seen."""
        return self.known.get(tensor, Known())

    def seen(self, tensor: torch.Tensor) -> bool:
        """Whether a function that was watched made it."""
        return tensor in self.known

    def end(self, results: list[torch.Tensor], tensors: list[torch.Tensor], why: str) -> None:
        """Take results as made of tensors in a way that cannot be followed."""
        through = frozenset().union(*(self.of(t).through for t in tensors))
        # The first concatenation among what was read is the one whose trail ends.
        source = next((known for t in tensors if (known := self.of(t)).joined), Known())
        known = Known(ended=source.ended or (why if source.joined else ""), widths=source.widths, maps=source.maps)
        for result in results:
            self.known[result] = replace(known, through=through)

    def _called(self, call: Call, results: list[torch.Tensor]) -> None:
        name, tensors = call.name, call.tensors
        # Who reads a concatenation here?
        mixed = self.called(name, tensors)
        # What becomes of the labels.
        if name in MIXES:
            through = mixed.union(*(self.of(t).through for t in tensors))
            self.known.update({result: Known(through=through) for result in results})
        elif name in ONLY_SHAPES_READ or not tensors:
            self.known.update({result: Known() for result in results})
        else:
            try:
                followed = self._rules[name](call) if name in self._rules else {}
            except (RuntimeError, TypeError, ValueError, IndexError):  # labels cannot go where the values could
                followed = {}
            self.end([result for result in results if result not in followed], tensors, name)
            self.known.update(followed)
            if name == "softmax":
                self.known.update({result: replace(self.of(result), gate=True) for result in results})

    def _labelled(self, tensor: torch.Tensor) -> Known:
        """What is known of a tensor, with labels: it is one map where nothing else is known."""
        known = self.of(tensor)
        if known.labels is None and not known.ended:
            labels = torch.full((1,) * tensor.dim(), float(next(self._numbers)), device=tensor.device)
            known = self.known[tensor] = replace(known, labels=labels, maps=frozenset((int(labels.max()),)))
        return known

    def _join(self, call: Call) -> dict[torch.Tensor, Known]:
        """Each map of the parts becomes a map of its own of the result."""
        dim = 1 if call.name == "hstack" else call.argument(1, "dim", 0)
        parts = [t for t in call.tensors if t.numel()]
        if any(part.dim() != parts[0].dim() for part in parts):
            return {}
        # Labels of one layout, then joined as the values were.
        labels = [self._renewed(part) for part in parts]
        sizes = [max(part.shape[d] for part in labels) for d in range(labels[0].dim())]
        if call.name == "stack":
            joined = torch.stack([part.expand(sizes) for part in labels], dim)
        else:
            along = dim % parts[0].dim()
            shapes = [[*sizes[:along], part.shape[along], *sizes[along + 1 :]] for part in parts]
            joined = torch.cat([one.expand(shape) for one, shape in zip(labels, shapes, strict=True)], along)
            self.joined.concatenations += len(parts) > 1 and (call.out.dim(), along) == (4, 1)
        known = [self.of(part) for part in parts]
        through = frozenset().union(*(one.through for one in known))
        return {call.out: self._with(joined, Known(gate=all(one.gate for one in known), through=through))}

    def _renewed(self, part: torch.Tensor) -> torch.Tensor:
        """Labels of a part of a concatenation with new numbers; a part whose trail has ended is one map."""
        known = self._labelled(part)
        labels = torch.full((1,) * part.dim(), -1.0, device=part.device) if known.labels is None else known.labels
        renewed = torch.zeros_like(labels)
        for old in labels.unique().tolist():
            if old:
                new = next(self._numbers)
                renewed[labels == old] = float(new)
                if known.stretched or int(old) in self.joined.resized:
                    self.joined.resized.add(new)
                if merged := self.joined.merged.get(int(old)) or (known.ended and old == -1.0 and known):
                    self.joined.merged[new] = merged
        return renewed

    def _with(self, labels: torch.Tensor, known: Known) -> Known:
        labels = _compact(labels)
        runs = _runs(labels) if sum(size > 1 for size in labels.shape) < 2 else []
        maps = frozenset(int(label) for label in labels.unique().tolist() if label)
        return replace(known, labels=labels, maps=maps, widths=tuple(width for width, _ in runs))

    def _move(self, call: Call) -> dict[torch.Tensor, Known]:
        """The labels are moved as the values were."""
        source, out, name = call.tensors[0], call.out, call.name
        known = self._labelled(source)
        if known.labels is None:
            return dict.fromkeys(tensors_of(out), known)
        # The labels take the values' way.
        labels = known.labels.to(source.device).expand(source.shape)
        if name in SHAPES:
            moved: Any = labels.reshape(out.shape)
        elif name in ("expand", "expand_as", "broadcast_to"):
            moved = labels.expand(out.shape)
        elif name in ("pad", "constant_pad_nd"):
            mode = call.argument(2, "mode", "constant") if name == "pad" else "constant"
            moved = F.pad(labels, call.argument(1, "pad", None), mode=mode)
        elif name in ("T", "mT"):
            moved = getattr(labels, name)
        else:
            args, kwargs = tree_map(lambda value: labels if value is source else value, (call.args, call.kwargs))
            moved = call.func(*args, **kwargs)
        pairs = zip(tensors_of(out), tensors_of(moved), strict=True)
        # Each result has the labels that landed in it.
        kept = replace(known, maps=frozenset(), widths=())
        return {result: self._with(part, kept) if part.numel() else Known() for result, part in pairs}

    def _keep(self, call: Call) -> dict[torch.Tensor, Known]:
        """Elements, or channels, are changed each on its own."""
        result, source, name = next(tensors_of(call.out)), call.tensors[0], call.name
        known = self._labelled(source)
        if not result.is_floating_point() or result.dim() != source.dim():
            return {}
        if name in SPATIAL:
            uniform = known.labels is None or all(size == 1 for size in known.labels.shape[2:])
            if result.shape[:2] != source.shape[:2] or not uniform:
                return {}
        elif result.shape != source.shape:
            return {}
        gate, stretched = known.gate or name in SIGMOIDS, known.stretched or name in RESIZINGS
        return {one: replace(known, gate=gate, stretched=stretched) for one in tensors_of(call.out)}

    def _combine(self, call: Call) -> dict[torch.Tensor, Known]:
        """Maps that go through it alone, or with factors: gates, or numbers of one channel, or one a channel."""
        name, out, tensors = call.name, call.out, call.tensors
        if not isinstance(out, torch.Tensor) or not out.is_floating_point():
            return {}
        # Maps have a value for each element; factors are broadcast.
        maps = [t for t in tensors if _covers(t, out)]
        if not maps:
            through = frozenset().union(*(self.of(t).through for t in tensors))
            return {out: Known(gate=all(self.of(t).gate for t in tensors), through=through)}
        # A gate is a factor, whatever its shape.
        if not self._same(maps) and name in PRODUCTS:
            maps = [t for t in maps if not self.of(t).gate] or maps
        # Several different maps: the trail ends, with the channels kept apart.
        same = self._same(maps)
        if not same and (name not in PRODUCTS or not any(self.of(t).joined for t in maps)):
            self.end([out], tensors, "a sum of maps")
            return {out: self._paired(self.of(out), maps)}
        # One map goes through; did a factor come from a convolution that reads it?
        main = maps[0] if same else next(t for t in maps if self.of(t).joined)
        known = self._labelled(main)
        others = [t for t in tensors if t is not main and not (same and any(t is one for one in maps))]
        factors = frozenset().union(*(self.of(t).through for t in others))
        gates = {conv for conv in factors if known.joined and self.joined.read.get(conv) == known.maps}
        self.joined.gates |= gates
        # A product of two maps is neither of them.
        if not same:
            self.end([out], [main], "a product of maps")
            known = self._paired(self.of(out), maps)
        through = (factors - gates).union(*(self.of(t).through for t in tensors if all(t is not o for o in others)))
        return {out: replace(known, gate=all(self.of(t).gate for t in tensors), through=through)}

    def _paired(self, known: Known, maps: list[torch.Tensor]) -> Known:
        """What was made of several maps of one size, one of them a concatenation, keeps its channels apart."""
        labels = [self._labelled(one).labels for one in maps]
        if not known.ended or any(one is None for one in labels):
            return known
        pairs = torch.stack(torch.broadcast_tensors(*(one for one in labels if one is not None)))
        # A pair of maps is a map of its own.
        kinds, which = pairs.flatten(1).unique(dim=1, return_inverse=True)
        numbers = torch.tensor([float(next(self._numbers)) for _ in range(kinds.shape[1])], device=pairs.device)
        return replace(known, labels=numbers[which].view(pairs.shape[1:]))

    def _reduce(self, call: Call) -> dict[torch.Tensor, Known]:
        """Over the dimension along which its maps lie, they become one; over others, the trail ends."""
        source = call.tensors[0]
        known = self._labelled(source)
        dims = call.argument(1, "dim", range(source.dim()))
        reduced = {dim % source.dim() for dim in ([dims] if isinstance(dims, int) else dims)}
        lie = {dim for dim, size in enumerate(known.labels.shape) if size > 1} if known.labels is not None else {-1}
        return dict.fromkeys(tensors_of(call.out), Known(through=known.through)) if lie <= reduced else {}

    def _same(self, maps: list[torch.Tensor]) -> bool:
        """Whether tensors hold the same maps in the same places."""
        known = [self._labelled(one) for one in maps]
        labels = known[0].labels
        if len({id(one) for one in maps}) == 1:
            return True
        return all(one.labels is not None and labels is not None and torch.equal(one.labels, labels) for one in known)

    def _written(self, buffer: torch.Tensor, part: Callable[[torch.Tensor], torch.Tensor], value: object) -> None:
        """A part of a buffer was overwritten: a concatenation that is made in place."""
        known = self.of(buffer)
        if known.ended:
            return
        # Labels of every element, so that a part can be written.
        labels = torch.zeros_like(buffer, dtype=torch.float32)
        if known.labels is not None:
            labels.copy_(known.labels)
        through = known.through
        if isinstance(value, torch.Tensor) and value.dim() and value.is_floating_point():
            of_value = self._labelled(value)
            part(labels).copy_(self._renewed(value).expand(value.shape))
            through = through | of_value.through
        else:
            part(labels).fill_(0)
        self.known[buffer] = self._with(labels, replace(known, through=through))


def tensors_of(value: object) -> Iterator[torch.Tensor]:
    """All tensors in nested lists, tuples, mappings and objects that hold tensors as attributes."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_of(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, torch.nn.Module)) and not callable(value):
        yield from (item for item in vars(value).values() if isinstance(item, torch.Tensor))


def _compact(labels: torch.Tensor) -> torch.Tensor:
    """Labels with one element in each dimension along which they do not change; padding is like its neighbours."""
    for dim, size in enumerate(labels.shape):
        if size > 1 and labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, 1)
    for dim, size in enumerate(labels.shape):
        if size > 1:
            # Equal along it, apart from padding (0).
            highest = labels.amax(dim, keepdim=True)
            lowest = torch.where(labels == 0, torch.inf, labels).amin(dim, keepdim=True)
            if bool(((lowest == torch.inf) | (lowest == highest)).all()):
                labels = highest
    return labels


def _runs(labels: torch.Tensor) -> list[tuple[int, int]]:
    """(width, label) of equal neighbours, of labels that change along one dimension at most."""
    grouped = itertools.groupby(map(int, labels.flatten().tolist()))
    return [(len(list(run)), label) for label, run in grouped]


def _covers(tensor: torch.Tensor, out: torch.Tensor) -> bool:
    """Whether a tensor has values of its own for all of a result that it was broadcast to."""
    if tensor.dtype == torch.bool or tensor.dim() != out.dim():
        return False
    return all(
        size == 1 or (own == size and stride != 0)
        for own, stride, size in zip(tensor.shape, tensor.stride(), out.shape, strict=True)
    )
