"""A checkpoint as a file: written whole, read without running code, with sound numbers both ways.

Source: the file format of Detectron2 and fvcore, {"model": state dict, <name>: what else was saved}. Deviations: a file
is written beside its place and read back before it gets its name; only what torch reads with weights_only is read, and
pickles of arrays; the reason why a file is refused is looked for in the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaleeq.files import replacing

from .checkpoint_container import read_content
from .checkpoint_numbers import WEIGHTS, Content, first_fault

Checkpoint = dict[str, Any]  # as a file holds it


def write_checkpoint(file: Path, content: Content, *, parameters: Collection[str] = ()) -> None:
    """Write content with torch.save, whole or not at all.

    parameters: names of its state dicts that are parameters, all of whose numbers are finite; the rest are buffers.

    ValueError: it holds a value that could not be read again. OSError: no room, or no permission; names the file.
    FloatingPointError: it holds a number that no checkpoint may hold (see checkpoint_numbers); names the tensor.
    """
    if fault := first_fault(content, parameters):
        raise FloatingPointError(
            f"{fault}: {file} is not written, and the checkpoints in {file.parent} stay as they were; --resume "
            "continues from the last of them"
        )
    with replacing(file) as part:
        try:
            with part.open("wb") as stream:
                torch.save(dict(content), stream)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch raises an error of its own in place of the disk's
                raise error.__context__ from None
            raise
        read_content(part, shown_as=file, mapped=True, checksums=True)


def read_checkpoint(file: Path, *, mapped: bool = False, checksums: bool = False) -> Checkpoint:
    """What a file holds, on the CPU: "model" and, if any, "ema" are state dicts; a plain state dict counts as "model".

    mapped: the tensors are left in the file, which is quick, for a look at it; they must not outlive the file.
    checksums: a file without them is refused, not only named in a warning.

    FileNotFoundError, or ValueError: broken or foreign. What numbers it holds is not looked at: see refuse_faults.
    """
    content = read_content(file, shown_as=file, mapped=mapped, checksums=checksums)
    if not isinstance(content, dict):
        raise ValueError(_foreign(file, f"a {type(content).__name__}"))
    checkpoint = dict(content) if "model" in content else {"model": content}
    for key in WEIGHTS:
        if key in checkpoint:
            checkpoint[key] = state_dict_of(checkpoint[key], file, key)
    if checkpoint.get("weights_kind", "trained") not in ("ema", "trained"):
        raise ValueError(f"{file}: weights_kind is {checkpoint['weights_kind']!r}; it should be 'ema' or 'trained'")
    return checkpoint


def refuse_faults(content: Content, parameters: Collection[str], file: Path | str) -> None:
    """ValueError, naming the tensor: a file holds numbers that no checkpoint may hold.

    content: {"model": state dict, ...}. parameters: names of the model's.
    """
    if fault := first_fault(content, parameters):
        raise ValueError(f"{file} holds numbers that cannot be right, nothing was loaded: {fault}")


def state_dict_of(weights: object, file: Path, key: str) -> dict[str, Tensor]:
    """What a file holds under `key`, if that is a state dict, with plain names; ValueError."""
    if not isinstance(weights, dict):
        raise ValueError(_foreign(file, f"a {type(weights).__name__} as {key!r}"))
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        inner = "; to use its 'state_dict', save that alone" if isinstance(weights.get("state_dict"), dict) else ""
        raise ValueError(_foreign(file, f"the keys {list(weights)[:8]}{inner}"))
    names = plain_names(weights)
    plain = {names[name]: tensor for name, tensor in weights.items()}
    if len(plain) < len(weights):
        raise ValueError(f"{file}: {key!r} holds a tensor twice, with and without what torch.compile adds to its name")
    return plain


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Name -> the name without what torch.compile, and DistributedDataParallel around the whole, add to it."""
    plain = {name: ".".join(part for part in name.split(".") if part != "_orig_mod") for name in names}
    while plain and all(short.startswith("module.") for short in plain.values()):
        plain = {name: short.removeprefix("module.") for name, short in plain.items()}
    return plain


def _foreign(file: Path, held: str) -> str:
    wanted = "{'model': state dict}, or a state dict of tensors"
    return f"{file} is not a checkpoint: it should hold {wanted}, and holds {held}"
