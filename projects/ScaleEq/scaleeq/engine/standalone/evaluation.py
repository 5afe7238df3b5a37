"""Run a model over a dataset, score it, print the results and compare them with expected ones.

Source: the interface, behaviour, log lines and exit status of Detectron2's evaluation/{evaluator,testing}.py.
Deviation: a model's training mode is restored after an exception too.
"""

from __future__ import annotations

import datetime
import logging
import pprint
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from scaleeq.records import Json, JsonView

from .comm import get_world_size, is_main_process
from .config import CfgNode
from .logger import log_every_n_seconds

Results = Json  # task -> metric -> score


class Loader(Protocol):
    """Batches, and how many there are."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


class DatasetEvaluator:
    """Accumulates inputs and outputs, then scores them."""

    def reset(self) -> None:
        """Start a new round."""

    def process(self, inputs: Any, outputs: Any) -> None:
        """inputs: a batch of the loader. outputs: model(inputs)."""

    def evaluate(self) -> Any:
        """{task: {metric: score}}; None on ranks that have no result."""


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their tasks must differ. Results on rank 0 only."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        super().__init__()
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> Results:
        merged: Results = {}
        for evaluator in self._evaluators:
            result = evaluator.evaluate()  # on every rank: it may gather
            if result is not None and is_main_process():
                for task, metrics in result.items():
                    assert task not in merged, f"Different evaluators produce results with the same key {task}"
                    merged[task] = metrics
        return merged


class _Stopwatch:
    """Seconds spent on data, compute and evaluation since the warm-up of at most five batches."""

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches
        self.num_warmup = min(5, num_batches - 1)
        self.restart()

    def restart(self) -> None:
        self.start = time.perf_counter()
        self.data = self.compute = self.evaluation = 0.0

    def total(self) -> float:
        return time.perf_counter() - self.start

    def log_progress(self, index: int) -> None:
        """Log at most every 5 s, once warm (or at once where batches take that long)."""
        done = index + 1 - (self.num_warmup if index >= self.num_warmup else 0)
        if index < 2 * self.num_warmup and self.compute / done <= 5:
            return
        eta = datetime.timedelta(seconds=int(self.total() / done * (self.num_batches - index - 1)))
        log_every_n_seconds(
            logging.INFO,
            f"Inference done {index + 1}/{self.num_batches}. Dataloading: {self.data / done:.4f} s/iter. "
            f"Inference: {self.compute / done:.4f} s/iter. Eval: {self.evaluation / done:.4f} s/iter. "
            f"Total: {self.total() / done:.4f} s/iter. ETA={eta}",
            n=5,
        )

    def log_totals(self, num_devices: int) -> None:
        logger = logging.getLogger(__name__)
        measured = self.num_batches - self.num_warmup
        total = self.total()
        for what, clock, seconds in (
            ("inference time", datetime.timedelta(seconds=total), total),
            ("inference pure compute time", datetime.timedelta(seconds=int(self.compute)), self.compute),
        ):
            per_iter = f"{seconds / measured:.6f} s / iter per device, on {num_devices} devices"
            logger.info(f"Total {what}: {clock} ({per_iter})")


def inference_on_dataset(
    model: Callable[[Any], object],
    data_loader: Loader,
    evaluator: DatasetEvaluator | list[DatasetEvaluator] | None,
    callbacks: dict[str, Callable[[], object]] | None = None,
) -> Any:
    """Call the model (in eval mode, without gradients) on every batch and return the evaluator's results, {} for None.

    data_loader: an iterable with a length.
    evaluator: one, a list, or None to measure the speed only.
    callbacks: any of "on_start", "before_inference", "after_inference", "on_end".
    """
    # An empty round.
    logging.getLogger(__name__).info(f"Start inference on {len(data_loader)} batches")
    if evaluator is None or isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(evaluator or [])
    evaluator.reset()

    def callback(stage: str) -> None:
        if callbacks and stage in callbacks:
            callbacks[stage]()

    # Every batch, in three parts.
    stopwatch = _Stopwatch(len(data_loader))
    with inference_context(model) if isinstance(model, nn.Module) else nullcontext(), torch.no_grad():
        mark = time.perf_counter()
        callback("on_start")
        for index, inputs in enumerate(data_loader):
            stopwatch.data += time.perf_counter() - mark
            if index == stopwatch.num_warmup:
                stopwatch.restart()

            mark = time.perf_counter()
            callback("before_inference")
            outputs = model(inputs)
            callback("after_inference")
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            stopwatch.compute += time.perf_counter() - mark

            mark = time.perf_counter()
            evaluator.process(inputs, outputs)
            stopwatch.evaluation += time.perf_counter() - mark
            stopwatch.log_progress(index)
            mark = time.perf_counter()
        callback("on_end")
    # Scores of all.
    stopwatch.log_totals(get_world_size())
    results = evaluator.evaluate()
    return {} if results is None else results


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; the mode of before afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def print_csv_format(results: JsonView) -> None:
    """Log {task: {metric: score}} as comma-separated lines; metrics with "-" in their name (per class) are left out."""
    assert isinstance(results, Mapping) or not len(results), results
    logger = logging.getLogger(__name__)
    for task, metrics in results.items():
        if isinstance(metrics, Mapping):
            overall = {name: score for name, score in metrics.items() if "-" not in name}
            logger.info(f"copypaste: Task: {task}")
            logger.info("copypaste: " + ",".join(overall))
            logger.info("copypaste: " + ",".join(f"{score:.4f}" for score in overall.values()))
        else:
            logger.info(f"copypaste: {task}={metrics}")


def verify_results(cfg: CfgNode, results: Mapping[str, Mapping[str, float]]) -> bool:
    """Compare with cfg.TEST.EXPECTED_RESULTS, [[task, metric, expected, tolerance], ...]; exit with 1 if they differ.

    A metric that is missing or not finite differs; a missing task raises KeyError.
    """
    expected_results = cfg.TEST.EXPECTED_RESULTS
    if not expected_results:
        return True
    ok = True
    for task, metric, expected, tolerance in expected_results:
        actual = results[task].get(metric)
        if actual is None or not np.isfinite(actual) or abs(actual - expected) > tolerance:
            ok = False
    logger = logging.getLogger(__name__)
    if not ok:
        logger.error("Result verification failed!")
        logger.error("Expected Results: " + str(expected_results))
        logger.error("Actual Results: " + pprint.pformat(results))
        sys.exit(1)
    logger.info("Results verification passed.")
    return ok
