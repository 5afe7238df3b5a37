"""What a call of one of torch's functions means for a map whose resize is put off: read from its arguments alone.

Watching (watching.py) and deferring (deferred.py) both ask here, so that they agree on what is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
import torch.nn.functional as F

from scaleeq.ops.resize import INTERPOLATIONS

Function = Callable[..., object]  # of torch
Arguments = Sequence[object]
Keywords = Mapping[str, object]

JOINS: tuple[Function, ...] = (torch.cat, torch.concat, torch.concatenate)
CONVOLUTIONS: tuple[Function, ...] = (F.conv2d, torch.conv2d)
DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout)

# What tells a tensor's kind, and reads no value: these answer for a deferred map without making it.
METADATA = frozenset(
    [getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad")]
    + [getattr(torch.Tensor, name).__get__ for name in ("is_cuda", "is_cpu", "is_meta", "is_sparse", "is_quantized")]
    + [getattr(torch.Tensor, name) for name in ("size", "dim", "numel", "nelement", "ndimension", "get_device")]
    + [torch.Tensor.is_floating_point, torch.Tensor.is_complex, torch.Tensor.element_size, torch.Tensor.__len__]
    + [torch.is_floating_point, torch.is_complex, torch.numel]
)

_MODES: dict[object, str] = {torch_mode: name for name, torch_mode in INTERPOLATIONS.items()}
_MAY_BE_IN_PLACE = frozenset(
    {"relu", "relu6", "elu", "selu", "celu", "silu", "mish", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu"}
    | {"rrelu", "threshold", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"}
)


class Resize(NamedTuple):
    """F.interpolate(x, **how), whose result has `size` and is resize(x, size, mode) of ops/resize.py."""

    x: torch.Tensor
    size: tuple[int, int]
    mode: str
    how: Mapping[str, Any]


def is_plain(x: object) -> TypeGuard[torch.Tensor]:
    """Whether x is a tensor of torch's own class, which holds numbers."""
    return type(x) in (torch.Tensor, torch.nn.Parameter)


def resize_of(args: Arguments, kwargs: Keywords) -> Resize | None:
    """The resize that F.interpolate(*args, **kwargs) does, where it can be put off; else None.

    It can where the map is a plain one, (N, C, H, W), gets at least twice its pixels or keeps its size, and where the
    sizes alone give the coefficients: a scale factor that does not divide its result has coefficients of its own.
    """
    names = ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
    how: dict[str, Any] = {**dict(zip(names, args, strict=False)), **kwargs}
    x = how.pop("input", None)
    torch_mode = how.get("mode", "nearest")
    corners = how.get("align_corners")
    if torch_mode != "nearest" and corners is None:
        corners = False
    mode = _MODES.get((torch_mode, corners)) if isinstance(torch_mode, str) else None
    if mode is None or how.get("antialias") or not isinstance(x, torch.Tensor) or x.dim() != 4:
        return None
    if not x.is_floating_point() or x.layout is not torch.strided or not x.numel() or x.is_meta:
        return None
    size = _size_of(x.shape[-2:], how, mode)
    if size is None or (2 * x.shape[-2] * x.shape[-1] > size[0] * size[1] and tuple(x.shape[-2:]) != size):
        return None
    return Resize(x, size, mode, how)


def _size_of(now: Sequence[int], how: Mapping[str, Any], mode: str) -> tuple[int, int] | None:
    size, factor = how.get("size"), how.get("scale_factor")
    if (size is None) == (factor is None):
        return None
    if size is not None:
        pair = (size, size) if type(size) is int else tuple(size) if isinstance(size, (tuple, list)) else ()
        return pair if len(pair) == 2 and all(type(n) is int and n > 0 for n in pair) else None
    factors = tuple(factor) if isinstance(factor, (tuple, list)) else (factor, factor)
    if len(factors) != 2 or not all(type(f) in (int, float) and f > 0 for f in factors):
        return None
    height, width = (int(n * f) for n, f in zip(now, factors, strict=True))
    by_size = how.get("recompute_scale_factor") or mode == "bilinear_corners"
    divides = (height, width) == tuple(n * f for n, f in zip(now, factors, strict=True))
    return (height, width) if height and width and (by_size or divides) else None


def join_of(args: Arguments, kwargs: Keywords) -> Sequence[torch.Tensor] | None:
    """The maps that torch.cat(*args, **kwargs) joins over channels, (N, C_i, H, W) of one kind; else None."""
    given = dict(zip(("tensors", "dim"), args, strict=False)) | dict(kwargs)
    tensors, dim = given.pop("tensors", None), given.pop("dim", given.pop("axis", 0))
    if given or dim not in (1, -3) or not isinstance(tensors, (tuple, list)) or not tensors:
        return None
    kinds = set()
    for t in tensors:
        if not isinstance(t, torch.Tensor) or t.dim() != 4 or t.layout is not torch.strided or not t.numel():
            return None
        kinds.add((t.shape[0], *t.shape[2:], t.dtype, t.device))
    return tensors if len(kinds) == 1 else None


class Convolution(NamedTuple):
    """conv2d(x, weight, bias) with stride 1, one group, and `dilation`; zero padding keeps the size."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    dilation: int


def convolution_of(args: Arguments, kwargs: Keywords) -> Convolution | str:
    """The convolution that F.conv2d(*args, **kwargs) is; or why it is not one that can be evaluated per branch."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    weight, bias = given.get("weight"), given.get("bias")
    if not is_plain(weight) or not (bias is None or is_plain(bias)) or weight.dim() != 4:
        return "its weight is of a class of its own"
    height, width = weight.shape[-2:]
    if height != width or height % 2 == 0:
        return f"its kernel is {height}x{width}"
    if _pair(given.get("stride", 1)) != (1, 1):
        return f"its stride is {given['stride']}"
    if given.get("groups", 1) != 1:
        return f"it has {given['groups']} groups"
    dilation, padding = _pair(given.get("dilation", 1)), given.get("padding", 0)
    if dilation[0] != dilation[1] and height > 1:
        return f"its dilation is {dilation}"
    keeps = dilation[0] * (height // 2)
    if padding != "same" and (0 if padding == "valid" else _pair(padding)) not in ((keeps, keeps), keeps):
        return f"its padding {padding} changes the size"
    x = given["input"]
    assert isinstance(x, torch.Tensor)
    if weight.shape[1] != x.shape[1] or weight.device != x.device or not weight.is_floating_point():
        return "its weight does not fit its input"
    return Convolution(weight, bias, dilation[0])


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else tuple(value)


def hands_on(func: Function, args: Arguments, kwargs: Keywords) -> bool:
    """Whether the call gives the values of its first argument back: zero pixels of padding, dropout that is off."""
    if func is F.pad:
        pad = args[1] if len(args) > 1 else kwargs.get("pad", ())
        return isinstance(pad, (tuple, list)) and bool(pad) and all(type(n) is int and n == 0 for n in pad)
    if func in DROPOUTS:
        given = dict(zip(("input", "p", "training"), args, strict=False)) | dict(kwargs)
        return not given.get("training", func is not F.alpha_dropout) or given.get("p", 0.5) == 0
    return False


def changes_in_place(func: Function, args: Arguments, kwargs: Keywords) -> bool:
    """Whether the call may write into one of its arguments."""
    name = getattr(func, "__name__", "")
    if name.endswith("_"):
        return not name.endswith("__") or name == "__setitem__" or (name.startswith("__i") and name not in _NOT_WRITING)
    if kwargs.get("inplace") or kwargs.get("out") is not None:
        return True
    return name == "__set__" or (name in _MAY_BE_IN_PLACE and any(a is True for a in args))


_NOT_WRITING = frozenset({"__invert__", "__index__", "__int__", "__init__", "__iter__"})


def tensors_in(values: Iterable[object]) -> Iterator[torch.Tensor]:
    """The tensors among arguments, and in the lists, tuples and dicts among them."""
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list, dict)):
            yield from tensors_in(value)
