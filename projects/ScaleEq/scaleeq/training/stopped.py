"""The checkpoint of a run that a signal ended between two of SOLVER.CHECKPOINT_PERIOD: model_stopped.pth.

It is written where the last checkpoint does not have the last step, and removed as soon as there is a later one.
"""

from __future__ import annotations

from pathlib import Path

from scaleeq.engine import SafeCheckpointer

NAME = "model_stopped"


class StoppedCheckpoint:
    """Of one folder; on the main process."""

    def __init__(self, checkpointer: SafeCheckpointer, output_dir: str) -> None:
        self._checkpointer = checkpointer
        self._folder = Path(output_dir)
        self._is_old = False

    def look(self) -> None:
        """Whether one of an earlier stop is there."""
        self._is_old = self._file.is_file()

    def save(self, iteration: int, *, is_last: bool) -> None:
        """Save what the last checkpoint does not have yet. is_last: of the run's iterations."""
        regular = [f"model_{iteration:07d}"] + ["model_final"] * is_last
        if self._last_checkpoint() not in regular:
            self._checkpointer.save(NAME, iteration=iteration)

    def remove_old(self) -> None:
        """It has served as soon as there is a later checkpoint."""
        if self._is_old and self._last_checkpoint() != NAME:
            self._file.unlink(missing_ok=True)
            self._is_old = False

    @property
    def _file(self) -> Path:
        return self._folder / f"{NAME}.pth"

    def _last_checkpoint(self) -> str:
        """The name of the checkpoint that last_checkpoint names, without its suffix; "" without one."""
        file = self._folder / "last_checkpoint"
        return file.read_text().strip().removesuffix(".pth") if file.is_file() else ""
