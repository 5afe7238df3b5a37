"""Which map each channel of a tensor came from, followed through a forward.

Own design. Torch's function mode sees every call in eager mode. Beside a tensor stand labels: for each element, the
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
from torch.utils.weak import WeakTensorKeyDictionary


def _names(text: str) -> frozenset[str]:
    """Names of functions, without the underscores of those that act in place."""
    return frozenset(text.split())


JOINS = _names("cat concat concatenate stack hstack")
SHAPES = _names("view reshape flatten unflatten view_as reshape_as squeeze unsqueeze ravel")
MOVES = SHAPES | _names(
    "getitem narrow select index_select gather take_along_dim chunk split split_with_sizes tensor_split unbind permute "
    "transpose movedim moveaxis swapaxes swapdims roll flip rot90 expand expand_as broadcast_to repeat "
    "repeat_interleave tile pad constant_pad_nd pixel_shuffle pixel_unshuffle channel_shuffle T mT"
)
RESIZINGS = _names("interpolate upsample upsample_bilinear upsample_nearest upsample_bilinear2d")
SPATIAL = RESIZINGS | _names("max_pool2d avg_pool2d grid_sample")
SIGMOIDS = _names("sigmoid hardsigmoid tanh hardtanh")
POINTWISE = SIGMOIDS | _names(
    "to type type_as float double half bfloat16 contiguous clone detach data requires_grad alias "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout masked_fill "
    "relu relu6 leaky_relu rrelu elu celu selu gelu silu mish softplus softsign hardswish hardshrink softshrink "
    "tanhshrink threshold logsigmoid prelu abs neg negative square sqrt rsqrt reciprocal exp log log1p sin cos erf "
    "clamp clip clamp_min clamp_max nan_to_num positive"
)
PRODUCTS = _names("mul multiply imul rmul div divide true_divide truediv itruediv rtruediv rdiv")
SUMS = _names("add iadd radd sub subtract isub rsub addcmul addcdiv where lerp maximum minimum pow")
MIXES = _names(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear matmul mm bmm baddbmm "
    "addmm einsum tensordot scaled_dot_product_attention multi_head_attention_forward deform_conv2d"
)
REDUCTIONS = _names("sum mean amax amin max min prod norm std var logsumexp")
ONLY_SHAPES_READ = _names(
    "zeros_like ones_like empty_like full_like rand_like randn_like new_tensor new_zeros new_ones new_empty new_full"
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

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        name = getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else name
        name = name.strip("_")
        if name == "setitem":
            self._written(args[0], lambda labels: labels[args[1]], args[2])
        elif name == "copy" and args[0]._base is not None:
            view, base = args[0], args[0]._base
            layout = (view.shape, view.stride(), view.storage_offset() - base.storage_offset())
            self._written(base, lambda labels: labels.as_strided(*layout), args[1])
        elif results := list(tensors_of(out)):
            self._called(name, func, args, kwargs or {}, out, results)
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
        source = next((known for t in tensors if (known := self.of(t)).joined), Known())
        known = Known(ended=source.ended or (why if source.joined else ""), widths=source.widths, maps=source.maps)
        for result in results:
            self.known[result] = replace(known, through=through)

    def _called(self, name: str, func: Any, args: Any, kwargs: Any, out: Any, results: list[torch.Tensor]) -> None:
        tensors = list(tensors_of((args, {key: value for key, value in kwargs.items() if key != "out"})))
        mixed = self.called(name, tensors)
        if name in MIXES:
            through = mixed.union(*(self.of(t).through for t in tensors))
            self.known.update({result: Known(through=through) for result in results})
        elif name in ONLY_SHAPES_READ or not tensors:
            self.known.update({result: Known() for result in results})
        else:
            try:
                rule = self._rule(name)
                followed = rule(name, func, args, kwargs, out, tensors) if rule else {}
            except (RuntimeError, TypeError, ValueError, IndexError):  # labels cannot go where the values could
                followed = {}
            self.end([result for result in results if result not in followed], tensors, name)
            self.known.update(followed)
            if name == "softmax":
                self.known.update({result: replace(self.of(result), gate=True) for result in results})

    def _rule(self, name: str) -> Callable[..., dict[torch.Tensor, Known]] | None:
        for names, rule in (
            (JOINS, self._join),
            (MOVES, self._move),
            (SPATIAL, self._keep),
            (POINTWISE, self._keep),
            (PRODUCTS, self._combine),
            (SUMS, self._combine),
            (REDUCTIONS, self._reduce),
        ):
            if name in names or name in names:
                return rule
        return None

    def _labelled(self, tensor: torch.Tensor) -> Known:
        """What is known of a tensor, with labels: it is one map where nothing else is known."""
        known = self.of(tensor)
        if known.labels is None and not known.ended:
            labels = torch.full((1,) * tensor.dim(), float(next(self._numbers)), device=tensor.device)
            known = self.known[tensor] = replace(known, labels=labels, maps=frozenset((int(labels.max()),)))
        return known

    def _join(self, name: str, func: Any, args: Any, kwargs: Any, out: Any, tensors: Any) -> dict[torch.Tensor, Known]:
        """Each map of the parts becomes a map of its own of the result."""
        dim = 1 if name == "hstack" else kwargs.get("dim", args[1] if len(args) > 1 else 0)
        parts = [t for t in tensors if t.numel()]
        if any(part.dim() != parts[0].dim() for part in parts):
            return {}
        labels = [self._renewed(part) for part in parts]
        sizes = [max(part.shape[d] for part in labels) for d in range(labels[0].dim())]
        if name == "stack":
            joined = torch.stack([part.expand(sizes) for part in labels], dim)
        else:
            along = dim % parts[0].dim()
            shapes = [[*sizes[:along], part.shape[along], *sizes[along + 1 :]] for part in parts]
            joined = torch.cat([one.expand(shape) for one, shape in zip(labels, shapes, strict=True)], along)
            self.joined.concatenations += len(parts) > 1 and (out.dim(), along) == (4, 1)
        known = [self.of(part) for part in parts]
        through = frozenset().union(*(one.through for one in known))
        return {out: self._with(joined, Known(gate=all(one.gate for one in known), through=through))}

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

    def _move(self, name: str, func: Any, args: Any, kwargs: Any, out: Any, tensors: Any) -> dict[torch.Tensor, Known]:
        """The labels are moved as the values were."""
        source = tensors[0]
        known = self._labelled(source)
        if known.labels is None:
            return dict.fromkeys(tensors_of(out), known)
        labels = known.labels.to(source.device).expand(source.shape)
        if name in SHAPES:
            moved: Any = labels.reshape(out.shape)
        elif name in ("expand", "expand_as", "broadcast_to"):
            moved = labels.expand(out.shape)
        elif name in ("pad", "constant_pad_nd"):
            bound = dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | kwargs
            mode = bound.get("mode", "constant") if name == "pad" else "constant"
            moved = F.pad(labels, bound["pad"], mode=mode)
        elif name in ("T", "mT"):
            moved = getattr(labels, name)
        else:
            moved = func(*_replaced(args, source, labels), **_replaced(kwargs, source, labels))
        pairs = zip(tensors_of(out), tensors_of(moved), strict=True)
        kept = replace(known, maps=frozenset(), widths=())
        return {result: self._with(part, kept) if part.numel() else Known() for result, part in pairs}

    def _keep(self, name: str, func: Any, args: Any, kwargs: Any, out: Any, tensors: Any) -> dict[torch.Tensor, Known]:
        """Elements, or channels, are changed each on its own."""
        result, source = next(tensors_of(out)), tensors[0]
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
        return {one: replace(known, gate=gate, stretched=stretched) for one in tensors_of(out)}

    def _combine(
        self, name: str, func: Any, args: Any, kwargs: Any, out: Any, tensors: Any
    ) -> dict[torch.Tensor, Known]:
        """Maps that go through it alone, or with factors: gates, or numbers of one channel, or one a channel."""
        if not isinstance(out, torch.Tensor) or not out.is_floating_point():
            return {}
        maps = [t for t in tensors if _covers(t, out)]
        if not maps:
            through = frozenset().union(*(self.of(t).through for t in tensors))
            return {out: Known(gate=all(self.of(t).gate for t in tensors), through=through)}
        if not self._same(maps) and name in PRODUCTS:
            maps = [t for t in maps if not self.of(t).gate] or maps
        same = self._same(maps)
        if not same and (name not in PRODUCTS or not any(self.of(t).joined for t in maps)):
            self.end([out], tensors, "a sum of maps")
            return {out: self._paired(self.of(out), maps)}
        main = maps[0] if same else next(t for t in maps if self.of(t).joined)
        known = self._labelled(main)
        others = [t for t in tensors if t is not main and not (same and any(t is one for one in maps))]
        factors = frozenset().union(*(self.of(t).through for t in others))
        gates = {conv for conv in factors if known.joined and self.joined.read.get(conv) == known.maps}
        self.joined.gates |= gates
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
        kinds, which = pairs.flatten(1).unique(dim=1, return_inverse=True)
        numbers = torch.tensor([float(next(self._numbers)) for _ in range(kinds.shape[1])], device=pairs.device)
        return replace(known, labels=numbers[which].view(pairs.shape[1:]))

    def _reduce(
        self, name: str, func: Any, args: Any, kwargs: Any, out: Any, tensors: Any
    ) -> dict[torch.Tensor, Known]:
        """Over the dimension along which its maps lie, they become one; over others, the trail ends."""
        known = self._labelled(tensors[0])
        dims = kwargs.get("dim", args[1] if len(args) > 1 else range(tensors[0].dim()))
        reduced = {dim % tensors[0].dim() for dim in ([dims] if isinstance(dims, int) else dims)}
        lie = {dim for dim, size in enumerate(known.labels.shape) if size > 1} if known.labels is not None else {-1}
        return dict.fromkeys(tensors_of(out), Known(through=known.through)) if lie <= reduced else {}

    def _same(self, maps: list[torch.Tensor]) -> bool:
        """Whether tensors hold the same maps in the same places."""
        known = [self._labelled(one) for one in maps]
        labels = known[0].labels
        if len({id(one) for one in maps}) == 1:
            return True
        return all(one.labels is not None and labels is not None and torch.equal(one.labels, labels) for one in known)

    def _written(self, buffer: torch.Tensor, part: Callable[[torch.Tensor], torch.Tensor], value: Any) -> None:
        """A part of a buffer was overwritten: a concatenation that is made in place."""
        known = self.of(buffer)
        if known.ended:
            return
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


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
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


def _replaced(value: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    if value is old:
        return new
    if isinstance(value, (list, tuple)):
        items = [_replaced(item, old, new) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    return {key: _replaced(item, old, new) for key, item in value.items()} if isinstance(value, dict) else value


def _compact(labels: torch.Tensor) -> torch.Tensor:
    """Labels with one element in each dimension along which they do not change; padding is like its neighbours."""
    for dim, size in enumerate(labels.shape):
        if size > 1 and labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, 1)
    for dim, size in enumerate(labels.shape):
        if size > 1:
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
