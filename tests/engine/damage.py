"""Files that are no whole checkpoint of a model: one flipped bit, a missing end, other kinds of files."""

from __future__ import annotations

import io
import os
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def flips(content: bytes, num: int | None, *, seed: int = 0) -> Iterator[bytes]:
    """The content with one bit flipped: `num` random ones, or each in turn."""
    bits = range(8 * len(content))
    for bit in bits if num is None else random.Random(seed).sample(bits, num):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def cuts(content: bytes, num: int | None, *, seed: int = 0) -> Iterator[bytes]:
    """The content without its end."""
    ends = range(len(content))
    return (content[:end] for end in (ends if num is None else random.Random(seed).sample(ends, num)))


def same(first: Any, second: Any) -> bool:
    """Whether two contents of checkpoints are equal, to the last bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


class OfAUser:
    pass


def _saved(content: Any) -> Callable[[Path, nn.Module], None]:
    """content: what torch.save writes, or a function of the model that gives it."""
    return lambda file, model: torch.save(content(model) if callable(content) else content, file)


def _bytes(content: bytes) -> Callable[[Path, nn.Module], None]:
    return lambda file, model: file.write_bytes(content) and None


def _with_first(change: Callable[[torch.Tensor], Any]) -> Callable[[Path, nn.Module], None]:
    """A state dict with another first tensor."""

    def content(model: nn.Module) -> dict[str, Any]:
        state = dict(model.state_dict())
        name = next(iter(state))
        return {"model": {**state, name: change(state[name])}}

    return _saved(content)


def _with_counter(value: Any) -> Callable[[Path, nn.Module], None]:
    """A state dict with another value as the integer buffer."""
    return _saved(lambda model: {"model": {**model.state_dict(), "1.num_batches_tracked": value}})


def _zip(file: Path, model: nn.Module) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "words")


def _doubled(file: Path, model: nn.Module) -> None:
    torch.save({"model": model.state_dict()}, file)
    with zipfile.ZipFile(file, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("data/0"))
        archive.writestr(name, archive.read(name))


def _without_a_member(file: Path, model: nn.Module) -> None:
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict()}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(file, "w") as archive:
        for name in source.namelist():
            if not name.endswith("data/1"):
                archive.writestr(name, source.read(name))


def _tar(file: Path, model: nn.Module) -> None:
    with tarfile.open(file, "w") as archive:
        archive.addfile(tarfile.TarInfo("a"))


def _script(file: Path, model: nn.Module) -> None:
    torch.jit.save(torch.jit.trace(nn.ReLU(), torch.zeros(1)), str(file))


def _npy(file: Path, model: nn.Module) -> None:
    with file.open("wb") as stream:
        np.save(stream, np.arange(3))


def _safetensors(file: Path, model: nn.Module) -> None:
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


# name -> (writes the file, what the refusal says of it)
FOREIGN: dict[str, tuple[Callable[[Path, nn.Module], None], str]] = {
    "empty": (_bytes(b""), "is empty"),
    "zeros": (_bytes(bytes(4096)), "not a torch file"),
    "html": (_bytes(b"<html>404</html>"), "web page"),
    "git_lfs": (_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "text": (_bytes(b"epoch 1: 0.5\n"), "not a torch file"),
    "png": (_bytes(b"\x89PNG\r\n\x1a\n"), "not a torch file"),
    "gzip": (_bytes(b"\x1f\x8b\x08" + bytes(40)), "gzip"),
    "hdf5": (_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)), "HDF5"),
    "pickled_class": (_bytes(pickle.dumps(OfAUser())), "OfAUser; nothing but tensors"),
    "pickled_list": (_bytes(pickle.dumps([1, 2])), "holds a list"),
    "pickled_function": (_bytes(pickle.dumps({"model": {"a": os.system}})), "system; nothing but tensors"),
    "zip": (_zip, "a zip archive of something else.*readme.txt"),
    "doubled": (_doubled, "two members of one name"),
    "without_a_member": (_without_a_member, "not a torch file"),
    "tar": (_tar, "tar archive"),
    "torch_script": (_script, "TorchScript"),
    "npy": (_npy, "numpy array"),
    "safetensors": (_safetensors, "safetensors.*convert"),
    "whole_module": (_saved(lambda model: model), "save its state_dict"),
    "lightning": (_saved(lambda model: {"state_dict": model.state_dict(), "epoch": 1}), "state_dict.*epoch"),
    "nested": (_saved(lambda model: {"model": {"model": model.state_dict()}}), r"holds the keys \['model'\]"),
    "one_tensor": (_saved(lambda model: torch.zeros(3)), "holds a Tensor"),
    "numbered": (_saved(lambda model: {"model": dict(enumerate(model.state_dict().values()))}), r"keys \[0, 1"),
    "no_tensor": (_with_first(lambda tensor: tensor.tolist()), "holds the keys"),
    "integers": (_with_first(lambda tensor: tensor.long()), "of another kind: .* is int64 in the file, float32"),
    "bool_for_integer": (_with_counter(torch.tensor(True)), "of another kind: .* is bool in the file, int64"),
    "float_for_integer": (_with_counter(torch.tensor(3.0)), "of another kind: .* is float32 in the file, int64"),
    "bools": (_with_first(lambda tensor: tensor > 0), "of another kind: .* is bool in the file, float32"),
    "complex": (_with_first(lambda tensor: tensor.cfloat()), "of another kind: .* is complex64 in the file, float32"),
    "sparse": (_with_first(lambda tensor: tensor.to_sparse()), "of another kind: .* is float32 sparse_coo"),
    "quantized": (
        _with_first(lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
        "another kind: .* is qint8",
    ),
    "meta": (_with_first(lambda tensor: tensor.to("meta")), "of another kind: .* without values"),
    "other_shape": (_with_first(lambda tensor: tensor[:1]), "of another shape"),
    "nan": (_with_first(lambda tensor: torch.full_like(tensor, torch.nan)), "0.weight of 'model' is not finite"),
    "infinite": (_with_first(lambda tensor: torch.full_like(tensor, -torch.inf)), "0.weight of 'model' is not finite"),
    "too_large": (
        _with_first(lambda tensor: torch.full_like(tensor, 1e300, dtype=torch.float64)),
        "of another kind|cannot hold",
    ),
}
