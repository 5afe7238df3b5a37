"""Evaluation of given weights, with a record of what was evaluated: OUTPUT_DIR/inference/results.json.

The file holds the result dict itself ({"sem_seg": {...}}, in percent, null where a metric is undefined) and beside it
what the number depends on: the policy for absent classes, engine, weights ("ema" is their average over training,
"trained" what the optimizer left) and their hash, seconds an image, parameters and multiply-adds.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scaleeq import engine
from scaleeq.data import find_dataset
from scaleeq.engine import (
    CfgNode,
    DatasetEvaluator,
    DatasetEvaluators,
    MetadataCatalog,
    SafeCheckpointer,
    comm,
    inference_on_dataset,
    print_csv_format,
)
from scaleeq.equalization.calibration import require_calibrated
from scaleeq.evaluation.writing import output_writers
from scaleeq.files import write_json
from scaleeq.inference import Inference
from scaleeq.probes.counting import count
from scaleeq.stopping import UntilStopped, stop_signals
from scaleeq.tasks import Task, build_tasks

from .expected import require_expected
from .setup import check_before_evaluation, compile_parts

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)


def evaluate_only(cfg: CfgNode, trainer_class: type[Trainer], *, resume: bool = False) -> dict[str, Any]:
    """Load weights, evaluate on DATASETS.TEST, write results.json; returns the results (empty off the main process).

    resume: take OUTPUT_DIR's last checkpoint where there is one, as training does; else MODEL.WEIGHTS.

    ValueError: there are no weights to load. SystemExit: TEST.EXPECTED_RESULTS are not met. Stopped: by a signal.
    """
    check_before_evaluation(cfg)
    trainer_class.check_evaluators(cfg)
    model = trainer_class.build_model(cfg)
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR)
    weights_file = evaluated_file(cfg, checkpointer, resume=resume)
    weights_kind = checkpointer.load_weights(weights_file)
    logger.info("Evaluating the %s weights of %s", weights_kind, weights_file)
    compile_parts(model, enabled=cfg.MODEL.COMPILE)
    path = Path(cfg.OUTPUT_DIR) / "inference" / "results.json"
    if comm.is_main_process():
        path.unlink(missing_ok=True)  # of an earlier evaluation: it would stay beside this one's files after a kill

    with stop_signals(at_once=False), inference_clock(model) as clock:  # between two images, where nothing is lost
        results = trainer_class.test(cfg, model)
    num_images = sum(comm.all_gather(clock.num_images))
    if comm.is_main_process():
        loader = trainer_class.build_test_loader(cfg, cfg.DATASETS.TEST[0])
        record = {
            **results,
            "datasets": list(cfg.DATASETS.TEST),
            "num_images": num_images,
            "absent_classes": cfg.TEST.ABSENT_CLASSES,
            "seconds_per_image": clock.seconds / max(clock.num_images, 1),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "multiply_adds": count(model, next(iter(loader))[:1], call=build_predictor(cfg, model)).macs,
            "device": cfg.MODEL.DEVICE,
            "engine": engine.NAME,
            "weights": str(weights_file),
            "weights_kind": weights_kind,
            "weights_sha256": hash_weights(model.state_dict()),
        }
        write_json(path, record)
        logger.info("Results written to %s", path)
        require_expected(cfg, results)
    return results


def evaluated_file(cfg: CfgNode, checkpointer: SafeCheckpointer, *, resume: bool) -> str:
    """The checkpoint that is evaluated: OUTPUT_DIR's last one, where `resume` asks for it and there is one, or
    MODEL.WEIGHTS.

    ValueError: there is neither.
    """
    if resume and checkpointer.has_checkpoint():
        return checkpointer.get_checkpoint_file()
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "refusing to score a model without weights: MODEL.WEIGHTS is empty and there is no checkpoint to resume. "
            "Add MODEL.WEIGHTS path/to/model_final.pth, or --resume with OUTPUT_DIR set to a training run "
            f"(now {cfg.OUTPUT_DIR})"
        )
    return cfg.MODEL.WEIGHTS


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """What looks at a data set's predictions: its metrics, with what TEST asks for, and the files of TEST.OUTPUT.

    Without labels (the split of a test server) there are no metrics, only files.

    ValueError: no evaluator for the data set's evaluator_type, an unknown value of TEST, or nothing to do.
    """
    metadata, test = find_dataset(dataset_name), cfg.TEST
    evaluator_type = metadata.get("evaluator_type")
    if "sem_seg" in cfg.MODEL.TASKS.NAMES and evaluator_type != "sem_seg":
        raise ValueError(f"{dataset_name} has evaluator_type {evaluator_type!r}; choose one of sem_seg")
    tasks = build_tasks(cfg)
    for key in ("OUTPUT", "BOUNDARY", "VALIDATION_LOSS"):
        if test[key] and "sem_seg" not in tasks:
            raise ValueError(
                f"TEST.{key} is {test[key]!r}, which is for classes, but MODEL.TASKS.NAMES is {list(tasks)}; "
                "leave it out"
            )
    folder = Path(cfg.OUTPUT_DIR) / "inference"
    if len(cfg.DATASETS.TEST) > 1:
        folder /= dataset_name
    evaluators = output_writers(test.OUTPUT, dataset_name, folder, image_format=cfg.INPUT.FORMAT)
    scoring = [evaluator for task in tasks.values() for evaluator in task.evaluators(dataset_name)]
    if scoring:
        evaluators = [*scoring, *evaluators]
    elif evaluators:
        logger.info("%s has no labels: no metrics, only files (TEST.OUTPUT %s)", dataset_name, list(test.OUTPUT))
    else:
        raise ValueError(
            f"{dataset_name} has no labels to score with, and TEST.OUTPUT is empty: there is nothing to do. Set "
            "TEST.OUTPUT, for example \"['submission']\", or name another data set in DATASETS.TEST"
        )
    return evaluators[0] if len(evaluators) == 1 else DatasetEvaluators(evaluators)


def build_predictor(cfg: CfgNode, model: nn.Module, flip_pairs: Sequence[tuple[int, int]] = ()) -> nn.Module:
    """The model as TEST.SLIDE and TEST.AUG call it for the task of MODEL.TASKS."""
    tasks: list[Task] = list(build_tasks(cfg).values())
    return Inference.from_config(cfg, model, flip_pairs=flip_pairs, task=tasks[0])


def test_on_datasets(
    trainer_class: type[Trainer],
    cfg: CfgNode,
    model: nn.Module,
    evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None,
) -> dict[str, Any]:
    """What Trainer.test does, with the trainer's evaluators (unless given) and test loaders, as TEST asks for.

    Stopped: a signal has come (scaleeq.stopping); at the next image.
    """
    require_calibrated(model)
    names = cfg.DATASETS.TEST
    if isinstance(evaluators, DatasetEvaluator):
        evaluators = [evaluators]
    if evaluators is not None and len(evaluators) != len(names):
        raise ValueError(f"{len(evaluators)} evaluators for {len(names)} data sets in DATASETS.TEST")
    results = {}
    for index, name in enumerate(names):
        evaluator = trainer_class.build_evaluator(cfg, name) if evaluators is None else evaluators[index]
        predictor = build_predictor(cfg, model, flip_pairs=MetadataCatalog.get(name).get("flip_pairs", ()))
        if predictor is not model:
            for clock in _clocks:
                clock.watch(predictor)
        loader = UntilStopped(trainer_class.build_test_loader(cfg, name))
        results[name] = inference_on_dataset(predictor, loader, evaluator)
        if comm.is_main_process() and results[name]:
            logger.info("Evaluation results for %s in csv format:", name)
            print_csv_format(results[name])
    return results[names[0]] if len(names) == 1 else results


def copy_main_buffers(model: nn.Module) -> None:
    """Give every rank the main process's buffers: running statistics, where batch norm is per rank."""
    if comm.get_world_size() == 1:
        return
    buffers = dict(model.named_buffers())
    own = {name: buffer.cpu() for name, buffer in buffers.items()} if comm.is_main_process() else None
    for name, value in comm.all_gather(own)[0].items():
        buffers[name].copy_(value)


@dataclass
class InferenceClock:
    """seconds: inside the forward calls of what it watches, on this process; num_images: that went through them.

    A call inside another one, of a window or of a scaled image, is part of it.
    """

    seconds: float = 0.0
    num_images: int = 0
    _depth: int = 0
    _started: float = 0.0
    _handles: list[Any] = field(default_factory=list)

    def watch(self, model: nn.Module) -> None:
        """Count this model's calls too, until `close`."""
        self._handles += [model.register_forward_pre_hook(self._start), model.register_forward_hook(self._stop)]

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _start(self, *_: Any) -> None:
        if self._depth == 0:
            self._started = _now()
        self._depth += 1

    def _stop(self, _: nn.Module, inputs: tuple, __: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += _now() - self._started
            self.num_images += len(inputs[0])


_clocks: list[InferenceClock] = []  # that run; test_on_datasets lets them watch what it calls around the model


@contextmanager
def inference_clock(model: nn.Module) -> Iterator[InferenceClock]:
    """Time the inference of `model` inside the context, with all windows, scales and flips of an image."""
    clock = InferenceClock()
    clock.watch(model)
    _clocks.append(clock)
    try:
        yield clock
    finally:
        _clocks.remove(clock)
        clock.close()


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def hash_weights(state_dict: dict[str, torch.Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of every tensor, in the order of names; independent of the file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
