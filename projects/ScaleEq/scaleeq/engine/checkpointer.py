"""The checkpointer of ScaleEq, above either engine: what it writes is whole, what it loads fits.

Source: the file format of Detectron2 and fvcore (`<name>.pth` and `last_checkpoint`); both engines read and write it.
Deviations, all on the strict side: a file is written beside its place, read back and then renamed; loading is strict,
with every mismatch in one error and the model untouched; only what torch loads with weights_only is read; save_dir is
a local folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scaleeq.engine import DetectionCheckpointer
from scaleeq.files import replacing, write_text


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with saves that are whole or absent, and loads that are complete or refused."""

    _wanted: list[str] | None = None  # of the load in progress: the checkpointables that it must find; None: all

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes `<save_dir>/<name>.pth` with the model, the checkpointables and kwargs, then tags it as the last one.

        Raises ValueError for a name with a folder in it, and for values that weights_only loading would refuse later;
        then, as after a full disk, the files on disk are the ones from before.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        file = Path(self.save_dir, f"{name}.pth")
        if file.name != f"{name}.pth":
            raise ValueError(f"{name!r} is not the name of a checkpoint; folders belong into save_dir")
        states = {key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()}
        content = {"model": self.model.state_dict(), **states, **kwargs}
        self.logger.info("Saving checkpoint to %s", file)

        with replacing(file) as part:
            torch.save(content, part)
            _read(part, shown_as=file, mmap=True)  # maps the tensors, does not read them
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes the name into `<save_dir>/last_checkpoint`, which has either its old content or the new one."""
        write_text(Path(self.save_dir, "last_checkpoint"), last_filename_basename)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Loads model and checkpointables (None: all of them; []: the model alone); returns what else is in the file.

        path: a file, or a URL that the engine knows; empty: nothing is loaded.
        Raises FileNotFoundError, and ValueError for a file that is broken, foreign or does not fit, naming all misfits.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise FileNotFoundError(f"there is no checkpoint {path}")
        self._wanted = checkpointables
        try:
            return super().load(path, checkpointables)
        finally:
            self._parsed_url_during_load = None  # Detectron2's own note to itself, left behind by an error

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = _read(Path(filename), shown_as=Path(filename))
        model = content.get("model", content) if isinstance(content, dict) else content  # a plain state dict will do
        if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
            held = f"the keys {list(model)[:8]}" if isinstance(model, dict) else f"a {type(model).__name__}"
            raise ValueError(
                f"{filename} is not a checkpoint: it should hold {{'model': state dict}}, or a state dict of tensors, "
                f"and holds {held}"
            )
        checkpoint = content if model is not content else {"model": model}
        checkpoint.pop("matching_heuristics", None)  # names must match as they are
        self._refuse_misfits(checkpoint, filename)
        return checkpoint

    def _refuse_misfits(self, checkpoint: dict[str, Any], filename: str) -> None:
        """Raises ValueError listing every tensor and every state that is missing, unexpected or of another shape."""
        own = self.model.state_dict()
        saved = checkpoint["model"]
        if saved and all(name.startswith("module.") for name in saved):  # written from within DistributedDataParallel
            saved = {name.removeprefix("module."): tensor for name, tensor in saved.items()}
        wanted = self.checkpointables if self._wanted is None else self._wanted
        absent_states = [f"missing in the file: the state of {name!r}" for name in wanted if name not in checkpoint]
        misfits = [f"missing in the file: {name} {tuple(own[name].shape)}" for name in own if name not in saved]
        misfits += [f"unknown to the model: {name} {tuple(saved[name].shape)}" for name in saved if name not in own]
        misfits += [
            f"of another shape: {name} is {tuple(saved[name].shape)} in the file, {tuple(own[name].shape)} in the model"
            for name in own
            if name in saved and own[name].shape != saved[name].shape
        ]
        if misfits or absent_states:
            hint = "; to load the model alone, pass checkpointables=[]" if absent_states else ""
            lines = "\n  ".join(misfits + absent_states)
            raise ValueError(f"{filename} does not fit, nothing was loaded{hint}:\n  {lines}")


def _read(file: Path, *, shown_as: Path, mmap: bool | None = None) -> Any:
    """What torch reads from a file with weights_only, on CPU; every failure is a ValueError that names the file."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError:
        raise
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, zip and struct errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ValueError(
            f"{shown_as} is truncated, not a torch file, or holds more than tensors and plain values "
            f"({type(error).__name__}: {reason})"
        ) from error
