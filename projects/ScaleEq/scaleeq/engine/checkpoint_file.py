"""A checkpoint as a file: written whole, read without running code, and compared with a model by name and shape.

Source: the file format of Detectron2 and fvcore, {"model": state dict, <name>: what else was saved}. Deviations: a file
is written beside its place and read back before it gets its name; only what torch reads with weights_only is read; the
reason why a file is refused is looked for in the file.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaleeq.files import replacing

# What ScaleEqualizer keeps in a state dict, and what fold_equalizers leaves there in its place. Known by name here: the
# engine stands below the fusions, and a plain comparison of keys would only list them.
_EQUALIZER = re.compile(r"(?:^|\.)equalizers\.[^.]+\.(?:mean|std|num_images)$")
_FOLDED = re.compile(r"(?:^|\.)(?:offset_weight|combine\.(?:coefficients|offset))$")


def write_checkpoint(file: Path, content: Mapping[str, Any]) -> None:
    """Write content with torch.save, whole or not at all.

    ValueError: it holds a value that could not be read again. OSError: no room, or no permission; names the file.
    """
    with replacing(file) as part:
        try:
            with part.open("wb") as stream:
                torch.save(dict(content), stream)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides the disk's error behind one of its own
                raise error.__context__ from None
            raise
        _read(part, shown_as=file, mapped=True)


def read_checkpoint(file: Path, *, mapped: bool = False) -> dict[str, Any]:
    """What a file holds, on the CPU: "model" and, if any, "ema" are state dicts; a plain state dict counts as "model".

    mapped: the tensors are left in the file, which is quick, for a look at it; they must not outlive the file.

    FileNotFoundError, or ValueError: broken or foreign.
    """
    content = _read(file, shown_as=file, mapped=mapped)
    if not isinstance(content, dict):
        raise ValueError(_foreign(file, f"a {type(content).__name__}"))
    checkpoint = dict(content) if "model" in content else {"model": content}
    checkpoint.pop("matching_heuristics", None)  # names must match as they are
    for key in ("model", "ema"):
        if key in checkpoint:
            checkpoint[key] = _state_dict(checkpoint[key], file, key)
    if checkpoint.get("weights_kind", "trained") not in ("ema", "trained"):
        raise ValueError(f"{file}: weights_kind is {checkpoint['weights_kind']!r}; it should be 'ema' or 'trained'")
    return checkpoint


def _state_dict(weights: Any, file: Path, key: str) -> dict[str, Tensor]:
    if not isinstance(weights, dict):
        raise ValueError(_foreign(file, f"a {type(weights).__name__} as {key!r}"))
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(_foreign(file, f"the keys {list(weights)[:8]}"))
    if weights and all(name.startswith("module.") for name in weights):  # written from within DistributedDataParallel
        return {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights


def _foreign(file: Path, held: str) -> str:
    wanted = "{'model': state dict}, or a state dict of tensors"
    return f"{file} is not a checkpoint: it should hold {wanted}, and holds {held}"


def _read(file: Path, *, shown_as: Path, mapped: bool) -> Any:
    """What torch reads with weights_only; every failure but the disk's is a ValueError that names the file."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped and zipfile.is_zipfile(file))
    except OSError:
        raise
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, zip and struct errors
        raise ValueError(f"{shown_as} {_reason(file, error)}") from error


def _reason(file: Path, error: Exception) -> str:
    with file.open("rb") as stream:
        start = stream.read(64)
    forbidden = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if not start:
        return "is empty"
    if start.lstrip().startswith(b"<"):
        return "is a web page, not a torch file: download the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not a torch file: fetch what it points to with `git lfs pull`"
    if start.startswith(b"PK") and not zipfile.is_zipfile(file):
        return "is truncated: its end is missing"
    if forbidden:
        return f"holds {forbidden[1]}; nothing but tensors and plain values is read, and no code is run"
    return f"is damaged, or not a torch file ({type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]})"


@dataclass(frozen=True)
class Misfits:
    """How the tensors of a file differ from a model's; each a line for a message, by kind, and the names that fit."""

    missing: list[str]
    unexpected: list[str]
    reshaped: list[str]
    fitting: list[str]

    @property
    def lines(self) -> list[str]:
        return [*self.missing, *self.unexpected, *self.reshaped]


def compare(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> Misfits:
    """own: the model's state dict; saved: the file's."""
    same = {name for name in own if name in saved and own[name].shape == saved[name].shape}
    return Misfits(
        missing=[f"missing in the file: {name} {tuple(own[name].shape)}" for name in own if name not in saved],
        unexpected=[f"unknown to the model: {name} {tuple(saved[name].shape)}" for name in saved if name not in own],
        reshaped=[
            f"of another shape: {name} is {tuple(saved[name].shape)} in the file, {tuple(own[name].shape)} in the model"
            for name in own
            if name in saved and name not in same
        ],
        fitting=[name for name in own if name in same],
    )


def other_equalizers(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str:
    """In words, how the scale equalizers of a file differ from a model's, and the ways out; empty where they agree."""
    folded_in_file, folded_in_model = ({n for n in names if _FOLDED.search(n)} for names in (saved, own))
    if folded_in_file != folded_in_model:
        places = _places(folded_in_file ^ folded_in_model)
        folded, other = ("file", "model") if folded_in_file - folded_in_model else ("model", "file")
        return (
            f"the {folded}'s scale equalizers were folded into its weights ({places}), the {other}'s were not. Either "
            "load the checkpoint from before the folding, with MODEL.SCALE_EQUALIZER.ENABLED True, and fold after "
            "loading (scaleeq.fold_equalizers), or load the folded weights into a model that was folded in the same way"
        )
    in_file, in_model = ({n: t.shape for n, t in d.items() if _EQUALIZER.search(n)} for d in (saved, own))
    if in_file == in_model:
        return ""
    if not in_model:
        return (
            f"the file is of a model with scale equalizers ({_places(in_file)}), and this model has none: it would "
            "compute something else. Set MODEL.SCALE_EQUALIZER.ENABLED True to use it as it was trained, or load it so "
            "and take scaleeq.fold_equalizers(model), a model without equalizers that computes the same"
        )
    if not in_file:
        return (
            f"this model has scale equalizers ({_places(in_model)}), and the file is of a model without: it knows no "
            "statistics for them. Set MODEL.SCALE_EQUALIZER.ENABLED False to use it as it was trained, or start a "
            "fresh run from the backbone's weights alone (MODEL.TIMM), which calibrates its equalizers at the beginning"
        )
    return (
        f"the scale equalizers differ: the file's are in {_places(in_file)}, the model's in {_places(in_model)}, or "
        "they have other shapes. Set MODEL.SCALE_EQUALIZER.SCOPE and GRANULARITY as they were in the file's training"
    )


def _places(names: Iterable[str]) -> str:
    """The Fusions that hold these tensors."""
    fusions = (re.sub(r"\.?(equalizers|combine|mix)\..*$", "", name) or "the model" for name in names)
    return ", ".join(sorted(set(fusions)))
