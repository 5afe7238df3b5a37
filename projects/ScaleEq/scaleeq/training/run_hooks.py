"""The hooks of a run, in the order in which they run: what changes the model, what saves and tests it, what writes that
down and follows from it. Own arrangement of Detectron2's hooks and ours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from scaleeq.engine import (
    DatasetCatalog,
    EvalHook,
    HookBase,
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
    comm,
)
from scaleeq.tasks import build_tasks

from .hooks import BestCheckpoint, EarlyStop, FirstBatches, MissedEvaluation
from .scale_hooks import CalibrationHook, ScaleStatisticsHook
from .writers import EvaluationWriter, MetricsFile

if TYPE_CHECKING:
    from .trainer import Trainer


def standard_hooks(trainer: Trainer) -> list[HookBase | None]:
    """What Trainer.build_hooks returns; None stands for what this process or this run does not have."""
    cfg, main, tests = trainer.cfg, comm.is_main_process(), trainer.cfg.DATASETS.TEST
    task = next(iter(build_tasks(cfg).values()))
    headline = f"{task.name}/{task.headline}"
    metric = f"{tests[0]}/{headline}" if len(tests) > 1 else headline
    lower = task.metrics[task.headline].lower_is_better
    equalizer, period, patience = cfg.MODEL.SCALE_EQUALIZER, cfg.TEST.EVAL_PERIOD, cfg.SOLVER.EARLY_STOP_PATIENCE

    def calibration_loader() -> Iterable[list[dict]]:
        """The training data from its beginning, about one epoch of it, in the batches that batch norms will see."""
        num_images = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN)
        loader = trainer.build_train_loader(trainer.seeded_config())
        num_batches = math.ceil(num_images / cfg.SOLVER.IMS_PER_BATCH)
        return FirstBatches(loader, num_batches, micro_batch=trainer.step.micro_batch)

    evaluation = EvalHook(period, trainer.evaluate) if tests else None
    writer = EvaluationWriter(trainer.build_writers(), eval_period=period) if main else None
    best = None
    if main and tests:
        best = BestCheckpoint(trainer.evaluated_model, cfg.OUTPUT_DIR, metric=metric, lower_is_better=lower)
    return [
        IterationTimer(),
        CalibrationHook(trainer.model, calibration_loader, num_images=equalizer.NUM_IMAGES, output_dir=cfg.OUTPUT_DIR),
        LRScheduler(),
        ScaleStatisticsHook(
            trainer.model,
            period=equalizer.STATISTICS_PERIOD,
            output_dir=cfg.OUTPUT_DIR,
            gradient_scale=trainer.step.scaler.get_scale,
        ),
        PeriodicCheckpointer(trainer.checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD) if main else None,
        evaluation,
        MetricsFile(cfg.OUTPUT_DIR) if main else None,
        writer,
        best,
        MissedEvaluation(evaluation, best, followers=[writer]) if evaluation else None,
        EarlyStop(trainer.checkpointer, best, patience=patience, eval_period=period) if patience else None,
    ]
