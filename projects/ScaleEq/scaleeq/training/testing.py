"""A model's evaluation on one data set, and what there is to know of it beside its results: its time, some examples."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from scaleeq.engine import (
    CfgNode,
    DatasetEvaluator,
    DatasetEvaluators,
    MetadataCatalog,
    comm,
    inference_on_dataset,
    print_csv_format,
)
from scaleeq.evaluation import SemSegEvaluator
from scaleeq.inference import Inference
from scaleeq.model import LABELS_SUFFICE
from scaleeq.records import Json
from scaleeq.stopping import UntilStopped
from scaleeq.tasks import build_tasks

from .examples import Example, ExampleCollector

logger = logging.getLogger(__name__)

Results = Json


@dataclass
class InferenceClock:
    """seconds: inside the forward calls of what it watches, on this process; num_images: that went through them.

    A call inside another one, of a window or of a scaled image, is part of it.
    """

    seconds: float = 0.0
    num_images: int = 0
    _depth: int = 0
    _started: float = 0.0
    _hooks: ExitStack = field(default_factory=ExitStack)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[InferenceClock]:
        """Time the inference of `model` inside the context, with all windows, scales and flips of an image.

        Those are seen where the clock also watches what calls the model for them, as `test_on_dataset` has it do.
        """
        with self._hooks:
            self.watch(model)
            yield self

    def watch(self, model: nn.Module) -> None:
        """Count this model's calls too, until the end of `watching`."""
        self._hooks.enter_context(model.register_forward_pre_hook(self._start))
        self._hooks.enter_context(model.register_forward_hook(self._stop))

    def _start(self, *_: object) -> None:
        if self._depth == 0:
            self._started = _now()
        self._depth += 1

    def _stop(self, _: nn.Module, inputs: tuple, __: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += _now() - self._started
            self.num_images += len(inputs[0])


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass
class Evaluation:
    """One evaluation on DATASETS.TEST; handed to `test`, which fills it.

    clock: None: nobody asks for the time. num_examples: images of each data set that this process keeps.
    examples: data set -> those images, with what the model made of them. confusions: data set -> (K, K), pixels of a
        class by what they were taken for; on the main process, of data sets with classes.
    """

    cfg: CfgNode
    clock: InferenceClock | None = None
    num_examples: int = 0
    examples: dict[str, list[Example]] = field(default_factory=dict)
    confusions: dict[str, np.ndarray] = field(default_factory=dict)


def run_test(test: Callable[..., Results], cfg: CfgNode, model: nn.Module, evaluation: Evaluation) -> Results:
    """test(cfg, model, evaluation=evaluation), the `test` of a recipe.

    One that was written for Detectron2 takes no evaluation. It does its work all the same: then there are no examples,
    and a clock counts the calls of the model itself.
    """
    parameters = inspect.signature(test).parameters
    takes = "evaluation" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return test(cfg, model, evaluation=evaluation) if takes else test(cfg, model)


def build_predictor(cfg: CfgNode, model: nn.Module, flip_pairs: Sequence[tuple[int, int]] = ()) -> nn.Module:
    """The model as TEST.SLIDE and TEST.AUG call it for the tasks of MODEL.TASKS."""
    return Inference.from_config(cfg, model, flip_pairs=flip_pairs, tasks=list(build_tasks(cfg).values()))


def test_on_dataset(
    cfg: CfgNode,
    model: nn.Module,
    dataset_name: str,
    *,
    evaluator: DatasetEvaluator,
    loader: Iterable[list[dict]],
    evaluation: Evaluation,
) -> Results:
    """What the evaluator finds of the model on a data set, predicted as TEST asks for; on the main process only.

    loader: of the data set's samples; has a length. evaluation: is filled.
    Stopped: a signal has come (scaleeq.stopping); at the next image.
    """
    # How the model is called.
    flip_pairs = MetadataCatalog.get(dataset_name).get("flip_pairs", ())
    predictor = build_predictor(cfg, model, flip_pairs=flip_pairs)
    if predictor is not model and evaluation.clock:
        evaluation.clock.watch(predictor)
    # Who looks.
    if evaluation.num_examples:
        collector = ExampleCollector(cfg, evaluation.num_examples, total=len(loader))  # type: ignore[arg-type]
        evaluation.examples[dataset_name] = collector.examples
        # After the others, whose labels it takes. Detectron2 lets them be a list.
        evaluator = DatasetEvaluators([*(evaluator if isinstance(evaluator, list) else [evaluator]), collector])
    if labels_suffice(evaluator):
        loader = AskingForLabels(loader)
    results = inference_on_dataset(predictor, UntilStopped(loader), evaluator)
    for each in each_of(evaluator):
        if isinstance(each, SemSegEvaluator) and each.merged is not None:
            evaluation.confusions[dataset_name] = each.merged
    if comm.is_main_process() and results:
        logger.info("Evaluation results for %s in csv format:", dataset_name)
        print_csv_format(results)
    return results


test_on_dataset.__test__ = False  # type: ignore[attr-defined]  # by its name, pytest would take it for one of its own


class AskingForLabels:
    """A loader whose samples say that nobody reads more of their predictions than labels; other models overlook it."""

    def __init__(self, loader: Iterable[list[dict]]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            yield [{**sample, LABELS_SUFFICE: True} for sample in batch]


def labels_suffice(evaluator: object) -> bool:
    """Whether this evaluator, or each of several, reads no more of a prediction than its labels.

    The class that defines `process` says so: a subclass with one of its own may read scores.
    """
    return all(_labels_suffice(each) for each in each_of(evaluator))


def _labels_suffice(evaluator: object) -> bool:
    owner = next((each for each in type(evaluator).__mro__ if "process" in vars(each)), object)
    return bool(vars(owner).get("labels_suffice"))


def each_of(evaluator: object) -> Iterator[object]:
    """The evaluator, or each of those that it stands for."""
    several = evaluator if isinstance(evaluator, list) else getattr(evaluator, "_evaluators", None)
    if several is None:
        yield evaluator
        return
    for each in several:
        yield from each_of(each)


def copy_main_buffers(model: nn.Module) -> None:
    """Give every rank the main process's buffers: running statistics, where batch norm is per rank."""
    if comm.get_world_size() == 1:
        return
    buffers = dict(model.named_buffers())
    own = {name: buffer.cpu() for name, buffer in buffers.items()} if comm.is_main_process() else None
    for name, value in comm.all_gather(own)[0].items():
        buffers[name].copy_(value)
