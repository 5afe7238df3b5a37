"""The hooks of a run, in the order in which they run: what changes the model, what saves and tests it, what writes that
down and follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Protocol

import numpy as np
from torch import nn

from scaleeq.detection.detector import TorchvisionDetector
from scaleeq.engine import (
    CfgNode,
    DatasetCatalog,
    EventWriter,
    HookBase,
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
    SafeCheckpointer,
    comm,
)
from scaleeq.tasks.metric import Metric

from .hooks import BestCheckpoint, EarlyStop, EvaluationHook, FirstBatches, MissedEvaluation
from .scale_hooks import CalibrationHook, ScaleStatisticsHook
from .step import TrainingStep
from .testing import Results
from .writers import EvaluationWriter, MetricsFile


class Run(Protocol):
    """What the hooks need of a trainer."""

    cfg: CfgNode
    model: nn.Module
    step: TrainingStep
    checkpointer: SafeCheckpointer

    def seeded_config(self) -> CfgNode: ...
    def build_train_loader(self, cfg: CfgNode) -> Iterable[list[dict]]: ...
    def build_writers(self) -> list[EventWriter]: ...
    def evaluate(self) -> Results: ...
    def evaluated_model(self) -> tuple[nn.Module, str]: ...
    def headline(self, cfg: CfgNode) -> Metric: ...
    def new_pictures(self) -> Mapping[str, np.ndarray]: ...


def standard_hooks(trainer: Run) -> list[HookBase | None]:
    """What Trainer.build_hooks returns; None stands for what this process or this run does not have."""
    cfg, main, tests = trainer.cfg, comm.is_main_process(), trainer.cfg.DATASETS.TEST
    metric = trainer.headline(cfg)
    # Those that others need.
    equalizer, period, patience = cfg.MODEL.SCALE_EQUALIZER, cfg.TEST.EVAL_PERIOD, cfg.SOLVER.EARLY_STOP_PATIENCE
    evaluation = EvaluationHook(period, trainer.evaluate) if tests else None
    writer = None
    if main:
        writer = EvaluationWriter(trainer.build_writers(), eval_period=period, pictures=trainer.new_pictures)
    best = None
    if main and tests:
        best = BestCheckpoint(trainer.evaluated_model, cfg.OUTPUT_DIR, metric=metric.of_first(tests))
    stop = None
    if patience:
        stop = EarlyStop(trainer.checkpointer, best, metric=metric, patience=patience, eval_period=period)
    # In their order.
    return [
        IterationTimer(),
        CalibrationHook(
            trainer.model,
            partial(_calibration_loader, trainer),
            num_images=equalizer.NUM_IMAGES,
            output_dir=cfg.OUTPUT_DIR,
        ),
        LRScheduler(),
        ScaleStatisticsHook(
            trainer.model,
            period=equalizer.STATISTICS_PERIOD,
            output_dir=cfg.OUTPUT_DIR,
            gradient_scale=trainer.step.scaler.get_scale,
            step=trainer.step,
            outputs=model.backbone if isinstance(model := trainer.step.plain_model, TorchvisionDetector) else None,
        ),
        PeriodicCheckpointer(trainer.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD) if main else None,
        evaluation,
        MetricsFile(cfg.OUTPUT_DIR) if main else None,
        writer,
        best,
        MissedEvaluation(evaluation, best, followers=[writer]) if evaluation else None,
        stop,
    ]


def _calibration_loader(trainer: Run) -> Iterable[list[dict]]:
    """The training data from its beginning, about one epoch of it, in the batches that batch norms will see."""
    cfg = trainer.cfg
    num_images = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
    loader = trainer.build_train_loader(trainer.seeded_config())
    num_batches = math.ceil(num_images / cfg.SOLVER.IMS_PER_BATCH)
    return FirstBatches(loader, num_batches, micro_batch=trainer.step.micro_batch)
