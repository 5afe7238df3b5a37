"""A hook of our own, the best checkpoint, and a finite view of the training data for another, calibration.

Deviation from Detectron2's BestCheckpointer: the best value lives in a file beside the checkpoint, so that a resumed
run knows it (a checkpoint is written before the evaluation of the same iteration and could not); only the weights are
saved, and `last_checkpoint`, which names where to resume, is left alone.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from scaleeq.engine import HookBase
from scaleeq.files import replacing, write_json

logger = logging.getLogger(__name__)


class FirstBatches:
    """The first `num_batches` of an endless loader; can be iterated again."""

    def __init__(self, loader: Iterable[list[dict]], num_batches: int) -> None:
        self._loader = loader
        self._num_batches = num_batches

    def __iter__(self) -> Iterator[list[dict]]:
        return islice(iter(self._loader), self._num_batches)


class BestCheckpoint(HookBase):
    """Keeps OUTPUT_DIR/model_best.pth, the weights with the highest `metric`; runs on the main process, after EvalHook.

    Its memory is OUTPUT_DIR/model_best.json: {"metric", "value", "iteration"}, read again when a run resumes.
    """

    def __init__(self, model: nn.Module, output_dir: str, *, metric: str = "sem_seg/mIoU") -> None:
        self._model = model
        self._weights_file = Path(output_dir) / "model_best.pth"
        self._record_file = Path(output_dir) / "model_best.json"
        self._metric = metric
        self.value = -math.inf
        self.iteration = -1

    def before_train(self) -> None:
        """A resumed run continues with the best of its first part; a fresh one starts anew."""
        if self.trainer.start_iter == 0:
            self._record_file.unlink(missing_ok=True)
        if not self._record_file.is_file():
            return
        record = json.loads(self._record_file.read_text())
        if record["metric"] == self._metric:
            self.value, self.iteration = record["value"], record["iteration"]
            logger.info("Best %s so far: %.4f at iteration %d", self._metric, self.value, self.iteration)

    def after_step(self) -> None:
        self._check()

    def after_train(self) -> None:
        self._check()

    def _check(self) -> None:
        """Look at the latest value once; what an earlier iteration measured was looked at then."""
        value, iteration = self.trainer.storage.latest().get(self._metric, (math.nan, -1))
        if iteration != self.trainer.storage.iter or not value > self.value:
            return
        self.value, self.iteration = value, iteration
        with replacing(self._weights_file) as part:
            torch.save({"model": self._model.state_dict()}, part)
        write_json(self._record_file, {"metric": self._metric, "value": value, "iteration": iteration})
        logger.info("New best %s: %.4f at iteration %d", self._metric, value, iteration)
