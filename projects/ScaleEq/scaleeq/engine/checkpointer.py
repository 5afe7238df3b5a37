"""The checkpointer of ScaleEq, above either engine: what it writes is whole, what it loads fits.

Source: the file format of Detectron2 and fvcore (`<name>.pth` and `last_checkpoint`); both engines read and write it.
Deviations, all on the strict side: files are replaced in one step; loading is strict, with every mismatch in one error
and nothing changed, unless a partial load is asked for; numbers that cannot be right are neither saved nor loaded; a
run resumes from the newest whole checkpoint where the last one is broken; old checkpoints are found in the folder, not
in memory, so that a resumed run removes them too; save_dir is a local folder.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scaleeq.files import remove_parts, require_checkpoint, set_aside, write_text

from . import DetectionCheckpointer
from .checkpoint_file import Checkpoint, plain_names, read_checkpoint, refuse_faults, write_checkpoint
from .checkpoint_misfits import Misfits, compare, converted, optimizer_misfits, state_misfits
from .checkpoint_numbers import WEIGHTS, Content
from .checkpoint_thrift import FinalLink, leave_weights

logger = logging.getLogger(__name__)

_NUMBERED = re.compile(r"model_(\d{7,})\.pth")
# (the model's state dict, the file's) -> why the file is of another model, and the ways out; empty: it is not.
Comparison = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], str]
_NAME = re.compile(r"[^/\x00-\x1f\ufffd]{1,200}\.pth")


class Stateful(Protocol):
    """What a checkpoint keeps the state of."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> object: ...


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with saves that are whole or absent, and loads that are complete or refused.

    A file may hold "ema" beside "model": averaged weights with the same names, which are then the evaluated ones. A
    file of evaluated weights alone may say what they are: "weights_kind", "ema" or "trained".

    A checkpointable may have `misfits(state) -> list[str]`: in words, why its load_state_dict would not take the state.
    """

    _wanted: list[str] = []  # noqa: RUF012  (of the load in progress: the checkpointables that it must find)

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        keep: int = 0,
        weights_alone: bool = False,
        link_final: bool = False,
        other_model: Comparison | None = None,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        """
        keep: so many files model_<iteration>.pth are kept, the newest; 0: all. Files of other names always stay.
        weights_alone: of those, all but the newest are left their evaluated weights, from which no run resumes.
        link_final: model_final.pth is another name of the numbered file of its iteration, where there is one.
        other_model: says in words why a file is of another model altogether, which is refused even where a part may be
            loaded (scaleeq.equalization.other_equalizers); None: tensors are compared alone.
        save_to_disk: None means that only the main process writes.
        """
        if keep < 0:
            raise ValueError(f"keep is {keep}; it should be a number of checkpoints, or 0 for all")
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self._keep = keep
        self._weights_alone = weights_alone
        self._link = FinalLink(model) if link_final else None
        self._other_model = other_model
        self._reported: set[int] = set()  # iterations of files that belong to another run

    # ------------------------------------------------------------------------------------------------ saving

    def save(self, name: str, **kwargs: object) -> None:
        """Writes `<save_dir>/<name>.pth` with the model, the checkpointables and kwargs, then tags it as the last one.

        Then the oldest numbered files go, as `keep` says. A number above this save's iteration is of another, longer
        run: such a file is neither counted nor removed, and a warning names it.

        Raises ValueError for a name with a folder in it, and for values that could not be read again; OSError for a
        disk without room; FloatingPointError for numbers that no checkpoint may hold, naming the first: then the files
        on disk are the ones from before.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        file = Path(self.save_dir, f"{name}.pth")
        if file.name != f"{name}.pth":
            raise ValueError(f"{name!r} is not the name of a checkpoint; folders belong into save_dir")
        states = {key: checkpointable.state_dict() for key, checkpointable in self.checkpointables.items()}
        content = {"model": self.model.state_dict(), **states, **kwargs}
        remove_parts(file.parent, of="*.pth")
        self.logger.info("Saving checkpoint to %s", file)
        if self._link is None or not self._link.made(file, kwargs.get("iteration")):
            write_checkpoint(file, content, parameters=self._parameters())
        if self._link is not None:
            self._link.note(file, kwargs.get("iteration"))
        self.tag_last_checkpoint(file.name)
        number = _NUMBERED.fullmatch(file.name)
        self._remove_old(int(number[1]) if number else kwargs.get("iteration"))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes the name into `<save_dir>/last_checkpoint`, which has either its old content or the new one."""
        set_aside(self._tag_file)
        write_text(self._tag_file, last_filename_basename)

    def _parameters(self) -> set[str]:
        """By the names that they have here and in a file."""
        names = [name for name, _ in self.model.named_parameters(remove_duplicate=False)]
        return {*names, *plain_names(names).values()}

    def _remove_old(self, iteration: object) -> None:
        """iteration: of the file just saved; not an int: unknown, and nothing is removed."""
        if not isinstance(iteration, int) or not (self._keep or self._weights_alone):
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
        ours = sorted(number for number in numbered if number <= iteration)
        older = ours[: -self._keep] if self._keep else []
        if self._weights_alone:
            for number in ours[len(older) : -1]:
                leave_weights(numbered[number], self._parameters())
        for number in older:
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
        """The file that last_checkpoint names, which need not exist; None without the name of one."""
        if not self.save_dir or not self._tag_file.is_file():
            return None
        name = self._tag_file.read_text(encoding="utf-8", errors="replace").strip()
        return Path(self.save_dir, name) if _NAME.fullmatch(name) else None

    def _numbered(self) -> dict[int, Path]:
        """Iteration -> model_<iteration>.pth."""
        found = ((_NUMBERED.fullmatch(path.name), path) for path in Path(self.save_dir).glob("model_*.pth"))
        return {int(number[1]): path for number, path in found if number}

    @property
    def _final(self) -> Path:
        return Path(self.save_dir, "model_final.pth")

    def has_checkpoint(self) -> bool:
        """Whether save_dir holds a run to resume; also where the first save was killed before it was tagged.

        A last_checkpoint that names nothing, beside no checkpoint, is taken as missing, with a warning.
        """
        if not self.save_dir or not self._tag_file.exists():
            return bool(self.save_dir) and self._newest_whole() is not None
        found = self._tagged() is not None or bool(self._numbered()) or self._final.exists()
        if not found:
            logger.warning("%s names no checkpoint, and there is none beside it: taken as missing", self._tag_file)
        return found

    def get_checkpoint_file(self) -> str:
        """The last checkpoint; where it is missing or broken, the newest whole one, with a warning; "" without any.

        ValueError: there was one, and none is whole.
        """
        if not self.save_dir:
            return ""
        last = self._tagged()
        broken = "" if last is None else self._broken(last)
        if last is not None and not broken:
            return str(last)
        why = f"names {last}, which {broken}" if last is not None else "is missing or names nothing"
        number = _NUMBERED.fullmatch(last.name) if last is not None else None
        other = self._newest_whole(before=int(number[1]) if number else None)
        if other is not None:
            logger.warning("%s %s: taking the newest whole checkpoint %s instead", self._tag_file, why, other)
            return str(other)
        if not self._tag_file.exists():
            return ""
        raise ValueError(
            f"{self._tag_file} {why}, and there is no other whole checkpoint to resume from. To start again, delete "
            f"{self._tag_file} or choose another OUTPUT_DIR"
        )

    def _newest_whole(self, *, before: int | None = None) -> Path | None:
        """The whole checkpoint of the highest iteration (below `before`) from which this checkpointer can resume."""
        best: tuple[int, Path] | None = None
        numbered = sorted(self._numbered().items(), reverse=True)
        for file in (self._final, *(file for number, file in numbered if before is None or number < before)):
            iteration = self._resumable(file)
            if iteration is not None and (before is None or iteration < before):
                best = max(best or (-1, file), (iteration, file))
                if file != self._final:  # the rest is older
                    break
        return best[1] if best else None

    def _resumable(self, file: Path) -> int | None:
        """The iteration of a whole checkpoint with all that a resume needs; None for any other file."""
        try:
            content = self._look(file)
        except (OSError, ValueError) as error:
            if file.exists():
                logger.info("%s is passed over: %s", file, error)
            return None
        iteration = content.get("iteration")
        return iteration if isinstance(iteration, int) and content.keys() >= self.checkpointables.keys() else None

    def _broken(self, file: Path) -> str:
        """Why a run cannot go on from a checkpoint, empty where it can."""
        try:
            self._look(file)
        except FileNotFoundError:
            return "does not exist"
        except (OSError, ValueError) as error:
            return f"cannot be read ({error})"
        return ""

    def _look(self, file: Path) -> Checkpoint:
        """The content of a whole checkpoint with sound numbers, its tensors left in the file; ValueError, OSError."""
        content = read_checkpoint(file, mapped=True, checksums=True)
        refuse_faults(content, self._parameters(), file)
        return content

    # ------------------------------------------------------------------------------------------------ loading

    def load(self, path: str, checkpointables: list[str] | None = None) -> Checkpoint:
        """Loads "model" and checkpointables (None: all of them; []: none); returns what else is in the file.

        path: a file, or a URL that the engine knows; empty: nothing is loaded.
        Raises FileNotFoundError, and ValueError for a file that is broken, foreign or does not fit, naming all misfits,
        or that holds numbers which cannot be right. After any error all is as it was.
        """
        require_checkpoint(path)
        self._wanted = list(self.checkpointables) if checkpointables is None else checkpointables
        touched = [self.checkpointables[name] for name in self._wanted if name in self.checkpointables]
        try:
            with _unchanged_on_error(self.model, *touched) if path else contextlib.nullcontext():
                return super().load(path, checkpointables)
        finally:
            self._parsed_url_during_load = None  # Detectron2's own note to itself, which an error leaves

    def load_weights(self, path: str, *, which: str = "evaluated", strict: bool = True) -> str:
        """Loads weights alone, to evaluate them or to start from them; returns what they are: "ema" or "trained".

        path: a file, or a URL that the engine knows. Floats of another width are converted, which is logged.
        which: "evaluated": the averaged weights where the file has them; "trained": those that the optimizer changed.
        strict: False: what fits by name, kind and shape is loaded, and a warning lists the rest, as for a new number of
            classes. It must be half of the model's parameters at least, counted by tensors, for one wide head may hold
            more numbers than the backbone; less is a file of something else.

        Raises FileNotFoundError, and ValueError for a file that is broken, foreign or does not fit, or is of another
        model, or has numbers that cannot be right: then nothing was loaded.
        """
        if which not in ("evaluated", "trained"):
            raise ValueError(f"which is {which!r}; choose 'evaluated' or 'trained'")
        if not path:
            raise FileNotFoundError("there is no checkpoint '': the path is empty")
        require_checkpoint(path)
        file = Path(self.path_manager.get_local_path(path))
        checkpoint = read_checkpoint(file)
        averaged = which == "evaluated" and "ema" in checkpoint
        kind = "ema" if averaged else checkpoint.get("weights_kind", "trained")
        key = "ema" if averaged else "model"
        misfits, weights = self._fitting(checkpoint, key, file, strict=strict)
        refuse_faults({key: weights}, self._parameters(), file)
        with _unchanged_on_error(self.model):
            self.model.load_state_dict(weights, strict=not misfits.lines)
        logger.info("Loaded the %s weights of %s", "averaged (ema)" if kind == "ema" else "trained", path)
        return kind

    def _load_file(self, filename: str) -> Checkpoint:
        """Called by the engine's load; compares all that will be loaded, so that the rest of it cannot fail."""
        file, wanted = Path(filename), self._wanted
        checkpoint = read_checkpoint(file, checksums=bool(wanted))
        also = [f"missing in the file: the state of {name!r}" for name in wanted if name not in checkpoint]
        for name in wanted:
            if name in checkpoint and name not in WEIGHTS:
                also += _misfits_of(name, self.checkpointables[name], checkpoint[name])
        for key in WEIGHTS:
            if key in checkpoint:
                _, checkpoint[key] = self._fitting(checkpoint, key, file, also=also, exact=bool(wanted))
        loaded = {name: checkpoint[name] for name in ("model", *wanted)}
        refuse_faults(loaded, self._parameters(), file)
        checkpoint.pop("matching_heuristics", None)
        return checkpoint

    def _load_model(self, checkpoint: Checkpoint) -> None:
        """Called by the engine's load, whose own renaming and leniency have no place here."""
        self.model.load_state_dict(checkpoint.pop("model"))

    def _fitting(
        self,
        checkpoint: Content,
        key: str,
        file: Path,
        *,
        strict: bool = True,
        also: list[str] | None = None,
        exact: bool = False,
    ) -> tuple[Misfits, dict[str, Tensor]]:
        """How a file's weights differ from the model's, and those that fit, by the model's names and in its types.

        also: lines on what else does not fit. exact: floats of another width do not fit.
        ValueError, naming all that differs, unless it is allowed.
        """
        # Compare by plain names.
        own = self.model.state_dict()
        names = {short: name for name, short in plain_names(own).items()}
        weights = {names.get(name, name): tensor for name, tensor in checkpoint[key].items()}
        misfits = compare(own, weights, exact=exact)
        lines = [*misfits.lines, *(also or [])]
        listed = "".join(f"\n  {line}" for line in lines)
        if checkpoint.get("matching_heuristics"):
            listed = " (Detectron2 would match the names by heuristics, which is not done here)" + listed
        # Another model altogether.
        if self._other_model and (other := self._other_model(own, weights)):
            raise ValueError(f"{file} does not fit, nothing was loaded: {other}:{listed}")
        # Some tensors differ.
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
        return misfits, converted({name: weights[name] for name in misfits.fitting}, own, file)


def _misfits_of(name: str, checkpointable: Stateful, saved: object) -> list[str]:
    """Why a checkpointable would not take a saved state; by its own word, or by comparison with its present state."""
    if isinstance(checkpointable, torch.optim.Optimizer):
        return optimizer_misfits(checkpointable, saved, name)
    ask = getattr(checkpointable, "misfits", None)
    return ask(saved) if ask else state_misfits(checkpointable.state_dict(), saved, name)


@contextlib.contextmanager
def _unchanged_on_error(*objects: Stateful) -> Iterator[None]:
    """Gives objects with a state_dict back their states where the block raises, for a load may fail half-way."""
    before = [(each, _copied(each.state_dict())) for each in objects]
    try:
        yield
    except BaseException:
        for each, state in before:
            now = each.state_dict()
            if all(isinstance(value, Tensor) for value in state.values()) and state.keys() == now.keys():
                for name, value in state.items():  # also where it is load_state_dict that fails
                    now[name].copy_(value)
            else:
                each.load_state_dict(state)
        raise


def _copied(state: Any) -> Any:
    """A state with copies of its tensors, in the memory of the CPU."""
    if isinstance(state, Tensor):
        return state if state.is_meta else state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: _copied(value) for key, value in state.items()}
    return type(state)(map(_copied, state)) if type(state) in (list, tuple) else state
