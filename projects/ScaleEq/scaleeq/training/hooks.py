"""Hooks around evaluation (the best weights, early stop, an evaluation lost to a kill), and a finite view of a loader.

Deviation from Detectron2's BestCheckpointer: what is known about evaluations lives in a file beside the checkpoints, so
that a resumed run knows it (a checkpoint is written before the evaluation of the same iteration and could not); only
the weights are saved, and `last_checkpoint`, which names where to resume, is left alone. Whether to stop early follows
from that file alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

from torch import nn

from scaleeq.engine import EvalHook, HookBase, SafeCheckpointer, comm, write_checkpoint
from scaleeq.files import read_json, set_aside, write_json
from scaleeq.records import Json
from scaleeq.stopping import UntilStopped
from scaleeq.tasks.metric import Metric

from .batches import cut

logger = logging.getLogger(__name__)


class FirstBatches:
    """The first `num_batches` of an endless loader, unless a signal ends the run; can be iterated again.

    Cut into pieces of `micro_batch` samples.
    """

    def __init__(self, loader: Iterable[list[dict]], num_batches: int, *, micro_batch: int = 0) -> None:
        """micro_batch: 0: batches stay whole."""
        self._loader = loader
        self._num_batches = num_batches
        self._micro_batch = micro_batch

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in islice(iter(UntilStopped(self._loader)), self._num_batches):
            yield from cut(batch, self._micro_batch) if self._micro_batch else [batch]


class BestCheckpoint(HookBase):
    """Keeps OUTPUT_DIR/model_best.pth, the evaluated weights that are best by `metric`; runs on the main process.

    Its memory is OUTPUT_DIR/model_best.json: {"metric", "value", "iteration", "evaluated"}, the last one being the
    latest iteration that was evaluated; it is read again when a run resumes. Belongs after the writers, so that an
    evaluation on record is in their files too.
    """

    def __init__(self, evaluated_model: Callable[[], tuple[nn.Module, str]], output_dir: str, *, metric: Metric):
        """
        evaluated_model: () -> the model that evaluation looks at, and the kind of its weights, "trained" or "ema".
        """
        self._evaluated_model = evaluated_model
        self._weights_file = Path(output_dir) / "model_best.pth"
        self._record_file = Path(output_dir) / "model_best.json"
        self.metric = metric
        self.value = metric.worst
        self.iteration = -1
        self.evaluated = -1

    def before_train(self) -> None:
        """A resumed run continues with the best of its first part; a fresh one starts again."""
        set_aside(self._record_file)
        if self.trainer.start_iter == 0:
            self._record_file.unlink(missing_ok=True)
        record = read_json(self._record_file, sound=_is_record)
        if record.get("metric") != self.metric.name:
            return
        self.evaluated = record["evaluated"] if "evaluated" in record else record["iteration"]
        if record["value"] is not None:
            self.value, self.iteration = record["value"], record["iteration"]
            logger.info("Best %s so far: %.4f at iteration %d", self.metric.name, self.value, self.iteration)

    def after_step(self) -> None:
        self.evaluated_now()

    def after_train(self) -> None:
        self.evaluated_now()
        del self._evaluated_model  # it often closes over the trainer, which owns this hook

    def evaluated_now(self) -> None:
        """Look at the latest value once; what an earlier iteration measured was looked at then."""
        # Is it new?
        value, iteration = self.trainer.storage.latest().get(self.metric.name, (math.nan, -1))
        if iteration != self.trainer.storage.iter:
            return
        # Is it better?
        self.evaluated = iteration
        if self.metric.is_better(value, self.value):
            self.value, self.iteration = value, iteration
            self._save_weights()  # before the record: a kill between the two costs one more evaluation, not the best
            logger.info("New best %s: %.4f at iteration %d", self.metric.name, value, iteration)
        # Write down what is known.
        best = self.value if math.isfinite(self.value) else None
        known = {"value": best, "iteration": self.iteration, "evaluated": self.evaluated}
        write_json(self._record_file, {"metric": self.metric.name, **known})

    def _save_weights(self) -> None:
        model, kind = self._evaluated_model()
        content = {"model": model.state_dict(), "weights_kind": kind, "iteration": self.iteration}
        parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        write_checkpoint(self._weights_file, {**content, self.metric.name: self.value}, parameters=parameters)


def _is_record(content: Json) -> bool:
    """Whether this is the content of model_best.json."""
    value, numbers = content["value"], (content["iteration"], content.get("evaluated", 0))
    return (
        isinstance(content["metric"], str)
        and (value is None or (type(value) in (int, float) and math.isfinite(value)))
        and all(type(number) is int for number in numbers)  # a bool is an int by inheritance
    )


class Follower(Protocol):
    """A hook that has something to do after an evaluation that is made outside of the steps."""

    def evaluated_now(self) -> None:
        """The storage has its results, and is still at the iteration that was evaluated."""


class EvaluationHook(EvalHook):
    """Detectron2's, which can be asked whether an evaluation is due, and to make one between the steps."""

    def __init__(self, period: int, evaluate: Callable[[], Json | None]) -> None:
        super().__init__(period, evaluate)
        self.period = period

    def is_due(self, iteration: int) -> bool:
        """Whether one follows this iteration's step; the last one follows the training."""
        done = iteration + 1
        return self.period > 0 and done % self.period == 0 and done != self.trainer.max_iter

    def evaluate_now(self, iteration: int, followers: Iterable[Follower] = ()) -> None:
        """Evaluate the weights as `iteration` has left them; results and what followers put or write are of it."""
        storage = self.trainer.storage
        present, storage.iter = storage.iter, iteration
        try:
            self._do_eval()
            for follower in followers:
                follower.evaluated_now()
        finally:
            storage.iter = present


class MissedEvaluation(HookBase):
    """On a resume: evaluates first, if the last checkpoint's iteration was due for an evaluation that a kill took.

    On every rank; belongs after the hooks that it is given.
    """

    def __init__(
        self, evaluation: EvaluationHook, best: BestCheckpoint | None, *, followers: Sequence[Follower | None] = ()
    ) -> None:
        """
        best: knows what was evaluated; None off the main process.
        followers: of the evaluation, before `best`, such as the writers; None is skipped.
        """
        self._evaluation = evaluation
        self._best = best
        self._followers: list[Follower] = [each for each in (*followers, best) if each is not None]

    def before_train(self) -> None:
        finished = self.trainer.start_iter - 1
        missed = finished >= 0 and self._best is not None and self._best.evaluated < finished
        if comm.all_gather(missed)[0] and self._evaluation.is_due(finished):
            self._evaluation.evaluate_now(finished, self._followers)


class StopTraining(BaseException):
    """Ends TrainerBase.train early and cleanly; no Exception, because that one would be logged as a failure."""

    def __init__(self, *, at_start: bool) -> None:
        """at_start: no iteration was run, since the run had stopped before it was resumed."""
        super().__init__()
        self.at_start = at_start


class EarlyStop(HookBase):
    """Ends training after `patience` evaluations without a new best: writes model_final, raises StopTraining.

    On every rank, last in the list; the main process decides for all. A resumed run decides as the unbroken one.
    """

    def __init__(
        self,
        checkpointer: SafeCheckpointer,
        best: BestCheckpoint | None,
        *,
        metric: Metric,
        patience: int,
        eval_period: int,
    ) -> None:
        """
        best: None off the main process. metric: what it compares.
        patience: evaluations. eval_period: iterations between two of them.
        """
        self._checkpointer = checkpointer
        self._metric = metric
        self._best = best
        self._patience = patience
        self._period = eval_period

    def before_train(self) -> None:
        finished = self.trainer.start_iter - 1
        if finished >= 0 and self._evaluations_since_best(finished) >= self._patience:
            self.trainer.iter = finished  # the checkpoint's, not that of an iteration that will not run
            self._stop(at_start=True)

    def after_step(self) -> None:
        finished = self.trainer.iter
        if (finished + 1) % self._period or finished + 1 == self.trainer.max_iter:
            return
        # An evaluation was due at this step.
        since_best = self._evaluations_since_best(finished)
        if since_best < 0:
            raise RuntimeError(
                f"SOLVER.EARLY_STOP_PATIENCE compares values of {self._metric.name} of the first data set in "
                f"DATASETS.TEST, and the evaluation at iteration {finished} gave none"
            )
        if since_best >= self._patience:
            self._stop(at_start=False)

    def _evaluations_since_best(self, iteration: int) -> int:
        """The same on every rank; -1 where the latest evaluation on record is not that of `iteration`."""
        best = self._best
        known = best is not None and best.evaluated == iteration
        return comm.all_gather((iteration - best.iteration) // self._period if best and known else -1)[0]

    def _stop(self, *, at_start: bool) -> None:
        if self._best is not None:
            logger.info(
                "Early stop: no better %s than %.4f of iteration %d in %d evaluations (SOLVER.EARLY_STOP_PATIENCE)",
                *(self._best.metric.name, self._best.value, self._best.iteration, self._patience),
            )
            self._checkpointer.save("model_final", iteration=self.trainer.iter)
        raise StopTraining(at_start=at_start)
