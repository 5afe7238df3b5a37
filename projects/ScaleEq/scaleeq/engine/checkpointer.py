"""The checkpointer of ScaleEq, above either engine: what it writes is whole, what it loads fits.

Source: the file format of Detectron2 and fvcore (`<name>.pth` and `last_checkpoint`); both engines read and write it.
Deviations, all on the strict side: files are replaced in one step; loading is strict, with every mismatch in one error
and the model untouched, unless a partial load is asked for; weights that are not finite are not saved; a run resumes
from the newest whole checkpoint where the last one is broken; old checkpoints are found in the folder, not in memory,
so that a resumed run removes them too; save_dir is a local folder.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scaleeq.engine import DetectionCheckpointer
from scaleeq.files import remove_parts, write_text

from .checkpoint_file import Misfits, compare, other_equalizers, read_checkpoint, write_checkpoint

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"model_(\d{7,})\.pth")


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with saves that are whole or absent, and loads that are complete or refused.

    A file may hold "ema" beside "model": averaged weights with the same names, which are then the evaluated ones. A
    file of evaluated weights alone may say what they are: "weights_kind", "ema" or "trained".
    """

    _wanted: list[str] | None = None  # of the load in progress: the checkpointables that it must find; None: all

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        keep: int = 0,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        """
        keep: so many files model_<iteration>.pth are kept, the newest; 0: all. Files of other names always stay.
        save_to_disk: None means that only the main process writes.
        """
        if keep < 0:
            raise ValueError(f"keep is {keep}; it should be a number of checkpoints, or 0 for all")
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self._keep = keep
        self._reported: set[int] = set()  # iterations of files that belong to another run

    # ------------------------------------------------------------------------------------------------ saving

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes `<save_dir>/<name>.pth` with the model, the checkpointables and kwargs, then tags it as the last one.

        Then the oldest numbered files go, as `keep` says. A number above this save's iteration is of another, longer
        run: such a file is neither counted nor removed, and a warning names it.

        Raises ValueError for a name with a folder in it, and for values that could not be read again; OSError for a
        disk without room; FloatingPointError for weights that are not finite, naming the first: then the files on disk
        are the ones from before.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        file = Path(self.save_dir, f"{name}.pth")
        if file.name != f"{name}.pth":
            raise ValueError(f"{name!r} is not the name of a checkpoint; folders belong into save_dir")
        states = {key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()}
        content = {"model": self.model.state_dict(), **states, **kwargs}
        self._refuse_not_finite(content, file)
        remove_parts(file.parent, of="*.pth")
        self.logger.info("Saving checkpoint to %s", file)
        write_checkpoint(file, content)
        self.tag_last_checkpoint(file.name)
        number = _NUMBERED.fullmatch(file.name)
        self._remove_old(int(number[1]) if number else kwargs.get("iteration"))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes the name into `<save_dir>/last_checkpoint`, which has either its old content or the new one."""
        write_text(self._tag_file, last_filename_basename)

    def _refuse_not_finite(self, content: dict[str, Any], file: Path) -> None:
        """FloatingPointError for a parameter with NaN or infinity, or a buffer with NaN (a mask may hold -inf)."""
        parameters = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        for key in ("model", "ema"):
            for name, value in content.get(key, {}).items():
                if not isinstance(value, Tensor) or not value.is_floating_point():
                    continue
                if not torch.isfinite(value).all() if name in parameters else torch.isnan(value).any():
                    raise FloatingPointError(
                        f"{name} of {key!r} is not finite: {file} is not written, and the checkpoints in "
                        f"{file.parent} stay as they were; --resume continues from the last of them"
                    )

    def _remove_old(self, iteration: Any) -> None:
        """iteration: of the file just saved; not an int: unknown, and nothing is removed."""
        if not self._keep or not isinstance(iteration, int):
            return
        numbered = self._numbered()
        later = sorted(number for number in numbered if number > iteration and number not in self._reported)
        if later:
            logger.warning(
                "%s: %s of an iteration after %d, left by another, longer run; kept. Delete what you do not need",
                self.save_dir,
                ", ".join(f"{numbered[number].name} is" for number in later),
                iteration,
            )
            self._reported.update(later)
        last = self._tagged()
        for number in sorted(number for number in numbered if number <= iteration)[: -self._keep]:
            if numbered[number] == last:
                continue
            try:
                numbered[number].unlink(missing_ok=True)
            except OSError as error:  # the new checkpoint is safe: no reason to end a run
                logger.warning("%s could not be removed: %s", numbered[number], error)

    # ------------------------------------------------------------------------------------------------ finding

    @property
    def _tag_file(self) -> Path:
        return Path(self.save_dir, "last_checkpoint")

    def _tagged(self) -> Path | None:
        """The file that last_checkpoint names, which need not exist; None without a name."""
        if not self.save_dir or not self._tag_file.is_file():
            return None
        name = self._tag_file.read_text(encoding="utf-8", errors="replace").strip()
        return Path(self.save_dir, name) if name else None

    def _numbered(self) -> dict[int, Path]:
        """Iteration -> model_<iteration>.pth."""
        found = ((_NUMBERED.fullmatch(path.name), path) for path in Path(self.save_dir).glob("model_*.pth"))
        return {int(number[1]): path for number, path in found if number}

    def has_checkpoint(self) -> bool:
        """Whether save_dir holds a run to resume; also where the first save was killed before it was tagged."""
        return bool(self.save_dir) and (self._tag_file.is_file() or self._newest_whole() is not None)

    def get_checkpoint_file(self) -> str:
        """The last checkpoint; where it is missing or broken, the newest whole one, with a warning; "" without any.

        ValueError: there was one, and none is whole.
        """
        if not self.save_dir:
            return ""
        last = self._tagged()
        why = "is missing or names nothing" if last is None else f"names {last}, which {_broken(last)}"
        if last is not None and not _broken(last):
            return str(last)
        number = _NUMBERED.fullmatch(last.name) if last is not None else None
        other = self._newest_whole(before=int(number[1]) if number else None)
        if other is not None:
            logger.warning("%s %s: taking the newest whole checkpoint %s instead", self._tag_file, why, other)
            return str(other)
        if not self._tag_file.is_file():
            return ""
        raise ValueError(
            f"{self._tag_file} {why}, and there is no other whole checkpoint to resume from. To start anew, delete "
            f"{self._tag_file} or choose another OUTPUT_DIR"
        )

    def _newest_whole(self, *, before: int | None = None) -> Path | None:
        """The whole checkpoint of the highest iteration (below `before`) from which this checkpointer can resume."""
        best: tuple[int, Path] | None = None
        for file in (*self._numbered().values(), Path(self.save_dir, "model_final.pth")):
            try:
                content = read_checkpoint(file, mapped=True)
            except (OSError, ValueError):
                continue
            iteration = content.get("iteration")
            if not isinstance(iteration, int) or not content.keys() >= self.checkpointables.keys():
                continue
            if (before is None or iteration < before) and (best is None or iteration > best[0]):
                best = (iteration, file)
        return best[1] if best else None

    # ------------------------------------------------------------------------------------------------ loading

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Loads "model" and checkpointables (None: all of them; []: none); returns what else is in the file.

        path: a file, or a URL that the engine knows; empty: nothing is loaded.
        Raises FileNotFoundError, and ValueError for a file that is broken, foreign or does not fit, naming all misfits.
        """
        self._refuse_absent(path)
        self._wanted = checkpointables
        try:
            return super().load(path, checkpointables)
        finally:
            self._parsed_url_during_load = None  # Detectron2's own note to itself, left behind by an error

    def load_weights(self, path: str, *, which: str = "evaluated", strict: bool = True) -> str:
        """Loads weights alone, to evaluate them or to start from them; returns what they are: "ema" or "trained".

        path: a file, or a URL that the engine knows.
        which: "evaluated": the averaged weights where the file has them; "trained": those that the optimizer changed.
        strict: False: what fits by name and shape is loaded, and a warning lists the rest, as for a new number of
            classes. It must be half of the model's parameters at least, counted by tensors, for one wide head may hold
            more numbers than the backbone; less is a file of something else.

        Raises FileNotFoundError, and ValueError for a file that is broken, foreign or does not fit, or of a model with
        other scale equalizers: then nothing was loaded.
        """
        if which not in ("evaluated", "trained"):
            raise ValueError(f"which is {which!r}; choose 'evaluated' or 'trained'")
        if not path:
            raise FileNotFoundError("there is no checkpoint '': the path is empty")
        self._refuse_absent(path)
        file = Path(self.path_manager.get_local_path(path))
        checkpoint = read_checkpoint(file)
        averaged = which == "evaluated" and "ema" in checkpoint
        kind = "ema" if averaged else checkpoint.get("weights_kind", "trained")
        weights = checkpoint["ema" if averaged else "model"]
        misfits = self._compare(weights, file, strict=strict)
        self.model.load_state_dict({name: weights[name] for name in misfits.fitting}, strict=not misfits.lines)
        logger.info("Loaded the %s weights of %s", "averaged (ema)" if kind == "ema" else "trained", path)
        return kind

    def _refuse_absent(self, path: str) -> None:
        if path and "://" not in path and not os.path.isfile(path):
            raise FileNotFoundError(f"there is no checkpoint {path}")

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Called by the engine's load."""
        checkpoint = read_checkpoint(Path(filename))
        wanted = self.checkpointables if self._wanted is None else self._wanted
        absent = [f"missing in the file: the state of {name!r}" for name in wanted if name not in checkpoint]
        for key in ("model", "ema"):
            if key in checkpoint:
                self._compare(checkpoint[key], Path(filename), also=absent)
        return checkpoint

    def _compare(
        self, weights: dict[str, Tensor], file: Path, *, strict: bool = True, also: list[str] | None = None
    ) -> Misfits:
        """The misfits of a file's weights; ValueError, naming them and those of `also`, unless they are allowed."""
        own = self.model.state_dict()
        misfits = compare(own, weights)
        lines = [*misfits.lines, *(also or [])]
        listed = "".join(f"\n  {line}" for line in lines)
        other = other_equalizers(own, weights)
        if other:
            raise ValueError(f"{file} does not fit, nothing was loaded: {other}:{listed}")
        if strict and lines:
            hint = "; for its weights alone: MODEL.WEIGHTS of a fresh run, or load_weights" if also else ""
            raise ValueError(f"{file} does not fit, nothing was loaded{hint}:{listed}")
        if lines:
            parameters = [name for name, _ in self.model.named_parameters()]
            num_fitting = len(set(parameters) & set(misfits.fitting))
            share = f"{num_fitting} of the model's {len(parameters)} parameters"
            if 2 * num_fitting < len(parameters) or not num_fitting:
                raise ValueError(f"{file} fits {share} only, less than half; nothing was loaded:{listed}")
            logger.warning("%s is loaded in part, %s; not loaded:%s", file, share, listed)
        return misfits


def _broken(file: Path) -> str:
    """Why a checkpoint cannot be read, empty where it can."""
    try:
        read_checkpoint(file, mapped=True)
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    return ""
