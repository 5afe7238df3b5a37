"""The trainer: one class whose parts can be replaced one by one.

Source: the override points of Detectron2's DefaultTrainer, so that its users find what they know. Deviations: the step
is our own (step.py), and a loss or a gradient that is not finite stops every rank before it harms the weights; random
numbers and training samples are functions of the seed and the iteration, so a resumed run goes on as if it had never
stopped; an enabled scale equalizer is calibrated before the first iteration.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

# Importing these registers what a config names.
import scaleeq.backbones
import scaleeq.data
import scaleeq.heads
import scaleeq.segmentor
from scaleeq.engine import (
    CfgNode,
    DatasetEvaluator,
    EvalHook,
    EventWriter,
    HookBase,
    SafeCheckpointer,
    TrainerBase,
    build_model,
    comm,
    default_writers,
    wrap_ddp,
)

from .ema import WeightAverage
from .evaluate import build_evaluator, copy_main_buffers, test_on_datasets
from .expected import check_expected_results, check_rows, require_expected
from .hooks import StopTraining
from .metrics import gather_metrics
from .output_dir import check_disk_space
from .run_hooks import standard_hooks
from .setup import check_before_training, compile_parts
from .solver import build_gradient_clipper, build_lr_scheduler, build_optimizer
from .step import TrainingStep, autocast_dtype, micro_batch_size, seed_iteration
from .writers import WandbWriter

logger = logging.getLogger(__name__)

Results = dict[str, Any]


class Trainer(TrainerBase):
    """Trains what a config describes.

        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        results = trainer.train()

    model: the one that training calls, wrapped where there are several processes; checkpointer.model is the bare one.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.check(cfg)
        self.cfg = cfg
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        model = self.build_model(cfg)
        self.optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.average = WeightAverage(model, decay=cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None
        saved: dict[str, Any] = {"ema": self.average} if self.average else {}
        self.checkpointer = SafeCheckpointer(
            model, cfg.OUTPUT_DIR, keep=cfg.SOLVER.KEEP_CHECKPOINTS, trainer=weakref.proxy(self), **saved
        )
        check_disk_space(cfg, model)
        for each in (model, self.average.model) if self.average else (model,):
            compile_parts(each, enabled=cfg.MODEL.COMPILE)
        self.model = wrap_ddp(model)
        self.model.train()
        self.step = TrainingStep(
            self.model,
            self.optimizer,
            micro_batch=micro_batch_size(cfg, comm.get_world_size()),
            device_type=torch.device(cfg.MODEL.DEVICE).type,
            dtype=autocast_dtype(cfg),
            clip_gradients=build_gradient_clipper(cfg),
        )
        self.last_eval_results: Results = {}
        self._samples: Iterator[list[dict]] | None = None
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from OUTPUT_DIR's last checkpoint if `resume` and there is one, else start with MODEL.WEIGHTS."""
        if resume and self.checkpointer.has_checkpoint():
            file = self.checkpointer.get_checkpoint_file()
            self.checkpointer.load(file)
            self.start_iter = self.iter + 1  # the checkpoint names the iteration that was finished
            if self.average:
                self.average.resume(self.start_iter)
            if self.start_iter == self.max_iter and os.path.basename(file) != "model_final.pth":
                self.checkpointer.save("model_final", iteration=self.iter)  # a kill came before it
            return
        if resume:
            logger.info("No checkpoint in %s to resume from: a fresh run", self.cfg.OUTPUT_DIR)
        if self.cfg.MODEL.WEIGHTS:
            kind = self.checkpointer.load_weights(self.cfg.MODEL.WEIGHTS, strict=self.cfg.MODEL.WEIGHTS_STRICT)
            logger.info("Starting from the %s weights of %s", kind, self.cfg.MODEL.WEIGHTS)

    def train(self) -> Results | None:  # type: ignore[override]
        """Run from start_iter to max_iter; returns the last evaluation's results on the main process, else None.

        SystemExit: TEST.EXPECTED_RESULTS are not met.
        """
        try:
            super().train(self.start_iter, self.max_iter)
        except StopTraining as stop:
            if stop.at_start:  # resumed after its early stop, it has only its evaluation left
                self.evaluate()
        if not comm.is_main_process():
            return None
        if self.cfg.TEST.EXPECTED_RESULTS:
            require_expected(self.cfg, self.last_eval_results)
        return self.last_eval_results

    def after_train(self) -> None:
        self.iter = min(self.iter, self.max_iter)  # one too many where a resumed run had nothing left to train
        if self.iter < self.max_iter:  # an error; in the last iteration the EvalHook would take it for the end
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, EvalHook)]
        super().after_train()

    def run_step(self) -> None:
        """One optimizer step on the next batch."""
        started = time.perf_counter()
        batch = next(self._sample_stream())
        data_time_s = time.perf_counter() - started

        seed_iteration(self.seed, rank=comm.get_rank(), iteration=self.iter)
        losses, gradient_norm = self.step.backward(batch, self.iter)
        self.after_backward()
        metrics = gather_metrics(self.step, batch, losses, gradient_norm, iteration=self.iter, data_time_s=data_time_s)
        if comm.is_main_process():
            for name, value in metrics.items():
                self.storage.put_scalar(name, value)
        self.step.update()
        if self.average:
            self.average.update(self.step.plain_model)

    def _sample_stream(self) -> Iterator[list[dict]]:
        """The training batches from start_iter on; made at the first step, when the starting point is known."""
        if self._samples is None:
            seek = {"start_iteration": self.start_iter} if self.start_iter else {}
            self._samples = iter(self.build_train_loader(self.seeded_config(), **seek))
        return self._samples

    def seeded_config(self) -> CfgNode:
        """The config with the seed that this run has, drawn or resumed, where it names none."""
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SEED = self.seed
        return cfg

    def state_dict(self) -> dict[str, Any]:
        """Iteration, hooks (the schedule among them), optimizer, loss scaler, seed, and which weights are evaluated."""
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "seed": self.seed,
            "evaluated_weights": self.evaluated_model()[1],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if state_dict.get("scaler"):
            self.step.scaler.load_state_dict(state_dict["scaler"])
        self.seed = state_dict.get("seed", self.seed)

    # ------------------------------------------------------------------------------------------------ what to override

    def build_hooks(self) -> list[HookBase | None]:
        """In the order in which they run: what changes the model, what saves and tests it, what writes that down."""
        return standard_hooks(self)

    def build_writers(self) -> list[EventWriter]:
        """Log lines, metrics.json and TensorBoard; Weights & Biases where WANDB.ENABLED."""
        writers = default_writers(self.cfg.OUTPUT_DIR, self.max_iter)
        return [*writers, WandbWriter.from_config(self.cfg)] if self.cfg.WANDB.ENABLED else writers

    def evaluated_model(self) -> tuple[nn.Module, str]:
        """The model that evaluation looks at, and what its weights are: "ema" or "trained"."""
        return (self.average.model, "ema") if self.average else (self.checkpointer.model, "trained")

    def evaluate(self) -> Results:
        """Test the model that the checkpoint holds: on every rank with the main process's running statistics."""
        model, kind = self.evaluated_model()
        copy_main_buffers(model)
        logger.info("Evaluating the %s weights", kind)
        self.last_eval_results = self.test(self.cfg, model)
        return self.last_eval_results

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        """Raise what is wrong with a config before anything is built, reading the first records of its data sets."""
        check_before_training(cfg)
        cls.check_evaluators(cfg)

    @classmethod
    def check_evaluators(cls, cfg: CfgNode) -> None:
        """ValueError: no evaluator for a data set of DATASETS.TEST, or none that has TEST.EXPECTED_RESULTS."""
        for name in cfg.DATASETS.TEST:
            cls.build_evaluator(cfg, name)
        is_ours = cls.build_evaluator.__func__ is Trainer.build_evaluator.__func__  # type: ignore[attr-defined]
        (check_expected_results if is_ours else check_rows)(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model on MODEL.DEVICE, in the memory format of MODEL.CHANNELS_LAST."""
        scaleeq.segmentor.check_names(cfg)
        model = build_model(cfg)
        if cfg.MODEL.CHANNELS_LAST:
            model = model.to(memory_format=torch.channels_last)
        logger.info("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0) -> Iterable[list[dict]]:
        """Endless batches of this process's share of SOLVER.IMS_PER_BATCH samples, from `start_iteration` on."""
        return scaleeq.data.build_train_loader(cfg, start_iteration=start_iteration)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict]]:
        """Every image of the data set once, shared among the processes; has a length."""
        return scaleeq.data.build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator that the data set's evaluator_type asks for.

        ValueError: no evaluator for that type.
        """
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: DatasetEvaluator | Sequence[DatasetEvaluator] | None = None
    ) -> Results:
        """Evaluate on every data set of DATASETS.TEST.

        Returns {"sem_seg": {...}} of one data set, {name: {"sem_seg": {...}}} of several; on the main process only.
        ValueError: as many evaluators as data sets are needed; or a scale equalizer was never calibrated.
        """
        return test_on_datasets(cls, cfg, model, evaluators)
