"""A pickle of numpy arrays, as Detectron2's model zoo and fvcore write it, read without running code.

The file is {"model": {name: array}, "__author__": ..., "matching_heuristics": True}. Nothing of numpy is handed to the
pickle: the names that rebuild an array stand for classes of this module, which hold an array's bytes, type and shape;
any other name is refused, where Detectron2's reader would call whatever the file asks for.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

Raw = str | bytes | bytearray  # of an array
Shape = tuple[int, ...]
Order = Literal["C", "F"]


class ForbiddenName(pickle.UnpicklingError):
    """The pickle asks for something else than arrays and plain values; the text is what it asks for."""


def read_plain_pickle(file: Path) -> object:
    """The first object of a pickle, with arrays as tensors.

    ForbiddenName, or whatever else the pickle module raises for bytes that are none.
    """
    with file.open("rb") as stream:
        return _with_tensors(_Unpickler(stream, encoding="latin1").load())  # Python 2 wrote text as bytes


class _Dtype:
    """numpy.dtype, of numbers alone."""

    __slots__ = ("value",)

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?[biufc?]\d*", code):
            raise ForbiddenName(f"numpy.dtype({code!r})")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """numpy.ndarray; made empty, then given its content."""

    __slots__ = ("value",)

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, column_major, data = state[-4:]
        self.value = _array(data, dtype, shape, "F" if column_major else "C")


class _Scalar(_Array):
    __slots__ = ()

    def __init__(self, dtype: object, data: Raw) -> None:
        self.value = _array(data, dtype, (), "C")


class _Buffer(_Array):
    """An array as the pickle protocol 5 has it."""

    __slots__ = ()

    def __init__(self, data: Raw, dtype: object, shape: Shape, order: Order) -> None:
        self.value = _array(data, dtype, shape, order)


def _array(data: Raw, dtype: object, shape: Shape, order: Order) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise ForbiddenName(f"an array of the type {dtype!r}")
    data = data.encode("latin1") if isinstance(data, str) else bytes(data)
    return np.array(np.frombuffer(data, dtype.value) if data else np.zeros(0, dtype.value)).reshape(shape, order=order)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _no_bytes() -> bytes:
    """How Python 3 writes b"" there."""
    return b""


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in a pickle that Python 2 can read."""
    if encoding not in ("latin1", "latin-1"):
        raise ForbiddenName(f"_codecs.encode to {encoding!r}")
    return text.encode(encoding)


_KNOWN: dict[str, Callable[..., object] | None] = {
    "numpy.ndarray": None,  # only named, as the class of what _reconstruct makes
    "numpy.dtype": _Dtype,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
}
for _core in ("numpy.core", "numpy._core"):  # of numpy 1 and 2
    _KNOWN[f"{_core}.multiarray._reconstruct"] = _reconstruct
    _KNOWN[f"{_core}.multiarray.scalar"] = _Scalar
    _KNOWN[f"{_core}.numeric._frombuffer"] = _Buffer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., object] | None:
        if f"{module}.{name}" not in _KNOWN:
            raise ForbiddenName(f"{module}.{name}")
        return _KNOWN[f"{module}.{name}"]


def _with_tensors(tree: object) -> object:
    if isinstance(tree, dict):
        return {key: _with_tensors(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_tensors(value) for value in tree]
    if isinstance(tree, _Array):
        return torch.from_numpy(tree.value.astype(tree.value.dtype.newbyteorder("="), order="C"))
    return tree
