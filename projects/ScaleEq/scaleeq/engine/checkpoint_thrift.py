"""Checkpoints that take less room: one file under two names, and older ones without what a resume needs."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from pathlib import Path

from torch import nn

from scaleeq.files import replacing

from .checkpoint_file import read_checkpoint, write_checkpoint

logger = logging.getLogger(__name__)


class FinalLink:
    """Makes model_final.pth another name of the numbered checkpoint that was written last, where it holds the same."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._last: tuple[Path, object, tuple] | None = None  # file, iteration and marks

    def made(self, file: Path, iteration: object) -> bool:
        """Whether the file, about to be written, is there now as a link."""
        twin, *last = self._last or (file, None, None)
        same = iteration is not None and last == [iteration, self._marks()] and twin != file and twin.is_file()
        return same and file.name == "model_final.pth" and linked(file, twin)

    def note(self, file: Path, iteration: object) -> None:
        """The file is written."""
        self._last = file, iteration, self._marks()

    def _marks(self) -> tuple:
        """Where each tensor lies, and how often it was changed: the same marks, the same numbers."""
        return tuple((tensor.data_ptr(), tensor._version) for tensor in self._model.state_dict().values())


def linked(file: Path, twin: Path) -> bool:
    """Make a file another name of its twin, in one step; False where the file system has no hard links."""
    try:
        with replacing(file) as part:
            os.link(twin, part)
    except OSError as error:
        logger.info("%s is written, not linked to %s: %s", file, twin.name, error)
        return False
    return True


def leave_weights(file: Path, parameters: Collection[str]) -> None:
    """Rewrite a checkpoint with its evaluated weights alone, as model_best.pth has them.

    A file that has no more, or cannot be read, stays as it is.
    """
    try:
        if read_checkpoint(file, mapped=True).keys() <= {"model", "weights_kind", "iteration"}:
            return
        content = read_checkpoint(file)
        kind = "ema" if "ema" in content else "trained"
        weights = {"model": content["ema" if kind == "ema" else "model"], "weights_kind": kind}
        write_checkpoint(file, {**weights, "iteration": content["iteration"]}, parameters=parameters)
    except (OSError, ValueError, KeyError, FloatingPointError) as error:  # the new checkpoint is safe: the run goes on
        logger.warning("%s stays as it is: %s", file, error)
