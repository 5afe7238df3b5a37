"""What a run writes down: metrics.json over a resume, the moment of writing, and Weights & Biases as one more writer.

Sources: the writers' conventions are Detectron2's (a scalar is written once, smoothed over a window of 20 iterations
where it was put so); Weights & Biases' documentation of `wandb.init`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import yaml

from scaleeq.engine import CfgNode, EventWriter, HookBase, PeriodicWriter, default_writers, get_event_storage
from scaleeq.extras import how_to_get, installed, require
from scaleeq.files import write_text
from scaleeq.records import JsonView

from .console_log import ProgressBar, is_terminal

logger = logging.getLogger(__name__)


def no_pictures() -> dict[str, np.ndarray]:
    return {}


class EvaluationWriter(PeriodicWriter):
    """Writes every `period` iterations, and right after each evaluation, so that a kill cannot lose its results.

    The pictures of an evaluation go into the storage, from where a writer that shows pictures, TensorBoard's, takes
    them; what none has taken is dropped, for they are large.
    """

    def __init__(
        self,
        writers: Sequence[EventWriter],
        *,
        period: int = 20,
        eval_period: int = 0,
        pictures: Callable[[], Mapping[str, np.ndarray]] = no_pictures,
    ) -> None:
        """pictures: () -> name -> (H, W, 3) uint8, those that are new since the last call."""
        super().__init__(writers, period)
        self._all = list(writers)
        self._periods = period, eval_period
        self._pictures = pictures
        self._written = -1  # the last iteration that was

    def after_step(self) -> None:
        new = self._put_pictures()
        super().after_step()
        done, last = self.trainer.iter + 1, self.trainer.max_iter
        # Once more where an evaluation falls between two periods.
        period, eval_period = self._periods
        if eval_period > 0 and done % eval_period == 0 and done % period and done != last:
            for writer in self._all:
                writer.write()
            self._written = self.trainer.iter
        elif done % period == 0 or done == last:
            self._written = self.trainer.iter
        if new:
            self.trainer.storage.clear_images()

    def evaluated_now(self) -> None:
        """After an evaluation outside of the steps."""
        self._put_pictures()
        for writer in self._all:
            writer.write()
        self.trainer.storage.clear_images()
        self._written = self.trainer.storage.iter

    def after_train(self) -> None:
        """Where training ends early, its last iteration may be written: Detectron2's printer cannot do so twice."""
        if self.trainer.iter != self._written:
            self._put_pictures()
            super().after_train()
        else:
            for writer in self._all:
                writer.close()
        del self._pictures  # it closes over the trainer, which owns this hook

    def _put_pictures(self) -> bool:
        """Whether there were any."""
        new = self._pictures()
        for name, picture in new.items():
            self.trainer.storage.put_image(name, picture.transpose(2, 0, 1))
        for writer in self._all:
            if new and isinstance(writer, WandbWriter):  # TensorBoard's takes them out of the storage
                writer.show(new, self.trainer.storage.iter)
        return bool(new)


def run_writers(cfg: CfgNode, max_iter: int) -> list[EventWriter]:
    """Log lines, metrics.json, TensorBoard where it is installed, a bar on a terminal; and W&B where WANDB.ENABLED."""
    printer, json_lines, board = default_writers(cfg.OUTPUT_DIR, max_iter)
    json_lines.close()
    writers = [printer, JsonLines(Path(cfg.OUTPUT_DIR) / "metrics.json")]
    if installed("tensorboard"):  # its writer imports it at the first scalar
        writers.append(board)
    else:
        logger.info("No TensorBoard events: %s", how_to_get("tensorboard"))
    if is_terminal():
        writers.append(ProgressBar(max_iter, instead_of=printer))
    return [*writers, WandbWriter.from_config(cfg)] if cfg.WANDB.ENABLED else writers


class NewScalars:
    """What a writer has not written yet of the current storage."""

    def __init__(self, window_size: int) -> None:
        """window_size: iterations of the median, of a scalar that was put to be smoothed."""
        self._window_size = window_size
        self._last_write = -1

    def take(self) -> dict[int, dict[str, float]]:
        """Iteration -> name -> value, in order; of each iteration since the last call that the storage knows."""
        lines: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                lines.setdefault(iteration, {})[name] = value
        self._last_write = max(lines, default=self._last_write)
        return dict(sorted(lines.items()))


class JsonLines(EventWriter):
    """metrics.json, a line an iteration, as the engine's JSONWriter, but in JSON, which has no NaN and no Infinity.

    A scalar that is not finite (the gradient norm of a skipped update, the IoU of an absent class) is left out.
    """

    def __init__(self, path: Path, window_size: int = 20) -> None:
        self._path = path
        self._new = NewScalars(window_size)

    def write(self) -> None:
        with self._path.open("a") as file:
            for iteration, scalars in self._new.take().items():
                finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
                file.write(json.dumps({**finite, "iteration": iteration}, sort_keys=True, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


class MetricsFile(HookBase):
    """Makes OUTPUT_DIR/metrics.json fit to be continued; on the main process, before the writers.

    A last line that a kill cut short is dropped, and the line {"iteration": start, "resumed": true} says that a run
    goes on there: iterations between the last checkpoint and the kill come again after it, and the later lines count.
    """

    def __init__(self, output_dir: str) -> None:
        self.path = Path(output_dir) / "metrics.json"

    def before_train(self) -> None:
        if not self.path.is_file():
            return
        with self.path.open("r+b") as file:  # in place: an engine's own writer has the file open, for appending
            num_whole_bytes = file.read().rfind(b"\n") + 1
            file.truncate(num_whole_bytes)
            if not num_whole_bytes:
                return
            file.seek(0, os.SEEK_END)
            file.write(json.dumps({"iteration": self.trainer.start_iter, "resumed": True}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


class WandbWriter(EventWriter):
    """Shows the scalars and the pictures of evaluations on Weights & Biases, over the iteration that each was put at.

    The run's id is kept in OUTPUT_DIR/wandb_run_id.txt, so a resumed training continues the same run; iterations that
    come again after a kill are there twice. WANDB_MODE=offline keeps everything in OUTPUT_DIR/wandb.
    """

    def __init__(self, *, project: str, name: str, output_dir: str, config: JsonView, window_size: int = 20) -> None:
        """
        name: of the run. config: plain values, shown with it. window_size: iterations of the median.

        ImportError: wandb is not installed.
        """
        wandb = require_wandb()
        # One id for all of a run's processes, one after the other.
        id_file = Path(output_dir) / "wandb_run_id.txt"
        if not id_file.is_file():
            write_text(id_file, secrets.token_hex(4))
        self._run = wandb.init(
            project=project,
            name=name,
            config=dict(config),
            dir=output_dir,
            id=id_file.read_text(),
            resume="allow",
        )
        # Its own steps may only grow, those of a resumed run need not.
        self._run.define_metric("iteration", hidden=True)
        self._run.define_metric("*", step_metric="iteration")
        self._image = wandb.Image
        self._new = NewScalars(window_size)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> WandbWriter:
        """As WANDB says; on the main process only."""
        name = cfg.WANDB.NAME or cfg.OUTPUT_DIR
        config = yaml.safe_load(cfg.dump())
        return cls(project=cfg.WANDB.PROJECT, name=name, output_dir=cfg.OUTPUT_DIR, config=config)

    def write(self) -> None:
        for iteration, scalars in self._new.take().items():
            self._run.log({**scalars, "iteration": iteration})

    def show(self, pictures: Mapping[str, np.ndarray], iteration: int) -> None:
        """pictures: name -> (H, W, 3) uint8, of this iteration."""
        self._run.log({name: self._image(picture) for name, picture in pictures.items()} | {"iteration": iteration})

    def close(self) -> None:
        self._run.finish()


def require_wandb() -> ModuleType:
    """The package. ImportError: it is not installed; says how to get it."""
    return require("wandb", why="WANDB.ENABLED is set, but ")
