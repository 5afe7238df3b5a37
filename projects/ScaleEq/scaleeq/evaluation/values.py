"""The evaluator of tasks that predict values: one pass, constant memory, the same digits over any number of processes.

What a task counts is a Score: integers, and sums of floats that are kept exactly (`ExactSum`), so that neither the
order of the images nor the number of processes changes a digit of a result.
"""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import torch

from scaleeq.engine import DatasetEvaluator, comm

from .parts import ModelOutput, Sample

logger = logging.getLogger(__name__)

UNIT_BITS = 1074  # the smallest float64 is 2 ** -1074: every one is a whole number of it
Count = Any  # int, or an int64 array: what adds
Counts = dict[str, Count]


class Score(Protocol):
    """What is counted of each image, and what follows from the sums.

    note: what the numbers mean, in a line under them.
    """

    note: str

    def update(self, prediction: np.ndarray, truth: np.ndarray, source: str) -> None:
        """Count an image. prediction: (C, H, W) float32, finite; truth: (H, W) or (C, H, W); source: its file."""

    def counts(self) -> Counts:
        """Name -> a whole number, or an array of them; those of several processes are added."""

    def results(self, counts: Mapping[str, Count]) -> dict[str, float]:
        """Metric -> value; NaN where it is undefined. counts: summed over processes."""


def exact(value: float) -> int:
    """A float64 as a whole number of 2 ** -UNIT_BITS, exactly; these add without rounding, in any order."""
    numerator, denominator = float(value).as_integer_ratio()
    return numerator * ((1 << UNIT_BITS) // denominator)


def rounded(total: int) -> float:
    """What `exact` numbers add up to, rounded once."""
    return float(Fraction(total, 1 << UNIT_BITS))


def mean_of(total: int, count: int) -> float:
    """Of a sum of `exact` numbers; NaN of none."""
    return float(Fraction(total, count << UNIT_BITS)) if count else float("nan")


class ValuesEvaluator(DatasetEvaluator):
    """Counts a Score over the images of all processes; images without a truth are left out."""

    def __init__(self, dataset_name: str, *, task: str, score: Score, distributed: bool = True) -> None:
        """
        dataset_name: for messages.
        task: the key of predictions, the group of the results and, with "_truth", the key of a sample's truth.
        distributed: merge what all processes have counted.
        """
        self.dataset_name = dataset_name
        self.task = task
        self.distributed = distributed
        self._fresh = score
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.score = copy.deepcopy(self._fresh)
        self.num_images = 0

    def process(self, inputs: Sequence[Sample], outputs: Sequence[ModelOutput]) -> None:
        """Count a batch.

        inputs: samples with "file_name" and "<task>_truth": (H, W) or (C, H, W). outputs: "<task>": (C, H, W).
        ValueError: another size than the truth's; FloatingPointError: a prediction that is not finite.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            if (truth := sample.get(f"{self.task}_truth")) is None:
                continue
            source, values = str(sample["file_name"]), output[self.task].detach().float().cpu().numpy()
            truth = torch.as_tensor(truth).cpu().numpy()
            if values.ndim != 3 or values.shape[-2:] != truth.shape[-2:]:
                raise ValueError(f"the prediction of {source} is {values.shape}, its truth {truth.shape}")
            if not np.isfinite(values).all():
                raise FloatingPointError(
                    f"the prediction of {source} is not finite. Look at the image, at the weights, and at the "
                    "precision that the model computes in"
                )
            self.score.update(values, truth, source)
            self.num_images += 1

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """{task: metrics} of all processes' images; None on all processes but the first."""
        own: Counts = {**self.score.counts(), "": self.num_images}
        parts = comm.gather(own) if self.distributed else [own]
        if not parts:
            return None
        counts = add(parts)
        num_images = counts.pop("")
        if not num_images:
            logger.warning("no image of %s has a truth for %s: all metrics are NaN", self.dataset_name, self.task)
        results = self.score.results(counts)
        lines = [f"{name:>12}  {value:.4f}" for name, value in results.items()]
        logger.info(
            "%s, %s, %d images (%s)\n%s", self.dataset_name, self.task, num_images, self.score.note, "\n".join(lines)
        )
        return OrderedDict([(self.task, results)])


def add(parts: Sequence[Counts]) -> Counts:
    """The sums of the counts of several processes, by name; all have the same names."""
    return {name: sum((each[name] for each in parts[1:]), parts[0][name]) for name in parts[0]}


def share(part: int, whole: int) -> float:
    """In percent; NaN of nothing."""
    return 100 * part / whole if whole else float("nan")
