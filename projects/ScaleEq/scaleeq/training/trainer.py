"""The trainer: a recipe, whose parts can be replaced one by one, and the loop that runs it.

Source: Detectron2's DefaultTrainer, so that its users find what they know. Deviations: the step
is our own (step.py), and a loss or a gradient that is not finite stops every rank before it harms the weights; random
numbers and training samples are functions of the seed and the iteration, so a resumed run goes on as if it had never
stopped; an enabled scale equalizer is calibrated before the first iteration; a signal ends the training after the step
that it finds, with a checkpoint; one run at a time writes to a folder.
"""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from scaleeq.data.fingerprint import DataFingerprint
from scaleeq.engine import (
    CfgNode,
    EvalHook,
    EventWriter,
    HookBase,
    SafeCheckpointer,
    TrainerBase,
    comm,
    largest_over_ranks,
    wrap_ddp,
)
from scaleeq.engine.checkpoint_misfits import optimizer_misfits, state_misfits
from scaleeq.equalization import other_equalizers
from scaleeq.records import Json
from scaleeq.stopping import Stopped, check_stop, request_stop, stop_requested, stop_signals

from .ema import WeightAverage
from .expected import require_expected
from .hooks import EarlyStop, StopTraining
from .metrics import gather_metrics
from .norms import warn_of_single_values
from .output_dir import RunLock, check_disk_space, other_data
from .pcgrad import ProjectedStep
from .recipe import Recipe
from .run_hooks import standard_hooks
from .setup import compile_parts
from .solver import build_gradient_clipper
from .step import TrainingStep, autocast_dtype, micro_batch_size, seed_iteration
from .stopped import StoppedCheckpoint
from .testing import Evaluation, Results, copy_main_buffers, run_test
from .writers import run_writers

logger = logging.getLogger(__name__)

NUM_EXAMPLES = 4  # images of each data set that an evaluation keeps, to be drawn


class Trainer(Recipe, TrainerBase):
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
        # The parts.
        model = self.build_model(cfg)
        self.optimizer = self.build_optimizer(cfg, model)
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self.average = WeightAverage(model, decay=cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None
        # What is saved.
        saved: dict[str, Any] = {"ema": self.average} if self.average else {}
        self.checkpointer = SafeCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            keep=cfg.SOLVER.KEEP_CHECKPOINTS,
            weights_alone=cfg.SOLVER.KEEP_WEIGHTS_ALONE,
            link_final=cfg.SOLVER.KEEP_LINKED,
            other_model=other_equalizers,
            trainer=weakref.proxy(self),
            **saved,
        )
        check_disk_space(cfg, model)
        # What is run.
        for each in (model, self.average.model) if self.average else (model,):
            compile_parts(each, enabled=cfg.MODEL.COMPILE)
        self.model = wrap_ddp(model)
        self.model.train()
        make_step = ProjectedStep if cfg.MODEL.TASKS.WEIGHTING == "pcgrad" else TrainingStep
        self.step = make_step(
            self.model,
            self.optimizer,
            micro_batch=micro_batch_size(cfg, comm.get_world_size()),
            device_type=torch.device(cfg.MODEL.DEVICE).type,
            dtype=autocast_dtype(cfg),
            clip_gradients=build_gradient_clipper(cfg),
        )
        warn_of_single_values(model, micro_batch=self.step.micro_batch)
        # What changes while it runs.
        self.last_eval_results: Results = {}
        self._samples: Iterator[list[dict]] | None = None
        self._lock = RunLock(cfg)
        self._data: DataFingerprint | None = None
        self._saved_data: Json | None = None  # of the checkpoint that was loaded
        self._trained = -1  # the last iteration that has come to its hooks
        self._stopped = StoppedCheckpoint(self.checkpointer, cfg.OUTPUT_DIR)
        self._evaluation: Evaluation | None = None  # the latest, until its pictures are drawn
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from OUTPUT_DIR's last checkpoint if `resume` and there is one, else start with MODEL.WEIGHTS.

        From here on to the end of train() no other run may write to OUTPUT_DIR.

        FolderInUse: another run does. ValueError: the data sets are not those that the run began with.
        """
        self._take_folder()
        try:
            self._resume_or_load(resume)
        except BaseException:
            self._lock.release()
            raise

    def _resume_or_load(self, resume: bool) -> None:
        if resume and self.checkpointer.has_checkpoint():
            file = self.checkpointer.get_checkpoint_file()
            self.checkpointer.load(file)
            self._refuse_other_data()
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

        SIGINT, SIGTERM and SIGHUP end it after the running step, with a checkpoint; evaluation and calibration at the
        next batch. A second one ends the process. Afterwards the earlier handlers are back.

        FolderInUse: another run writes to OUTPUT_DIR. Stopped, a SystemExit: by a signal; --resume goes on.
        SystemExit: TEST.EXPECTED_RESULTS are not met.
        """
        self._take_folder()
        try:
            with stop_signals(at_once=False):
                check_stop()
                self._train()
        except Stopped as stop:
            stop.told = True
            logger.warning("Stopped by %s; the same command with --resume goes on", stop.signal_name)
            raise
        finally:
            self._lock.release()
        if not comm.is_main_process():
            return None
        if self.cfg.TEST.EXPECTED_RESULTS:
            require_expected(self.cfg, self.last_eval_results)
        return self.last_eval_results

    def _take_folder(self) -> None:
        for warning in self._lock.acquire():
            logger.warning(warning)

    def _train(self) -> None:
        if comm.is_main_process():
            _ = self.data_fingerprint  # as the data are now, not at the first checkpoint
            self._stopped.look()
        try:
            super().train(self.start_iter, self.max_iter)
        except StopTraining as stop:
            if stop.at_start:  # resumed after its early stop, it has only its evaluation left
                self.evaluate()

    def after_step(self) -> None:
        """The hooks, and the end of the training where a signal has come to any process: without an evaluation then."""
        stop = largest_over_ranks(stop_requested(), comm)
        self._trained = self.iter
        if not stop:
            super().after_step()
            self._stopped.remove_old()
            return
        # Every process ends here, with its hooks and without an evaluation.
        request_stop(stop)
        self._hooks = [hook for hook in self._hooks if not isinstance(hook, (EvalHook, EarlyStop))]
        super().after_step()
        self._save_stopped()
        comm.synchronize()  # who leaves sooner has the others ended by torchrun
        raise Stopped(stop)

    def after_train(self) -> None:
        self.iter = min(self.iter, self.max_iter)  # one too many where a resumed run had nothing left to train
        if self.iter < self.max_iter:  # an error; in the last iteration the EvalHook would take it for the end
            self._hooks = [hook for hook in self._hooks if not isinstance(hook, EvalHook)]
        if stop_requested():
            self._save_stopped()
        super().after_train()
        self._stopped.remove_old()

    def _save_stopped(self) -> None:
        """Where the iteration in progress has come to its hooks."""
        if self._trained == self.iter and comm.is_main_process():
            self._stopped.save(self.iter, is_last=self.iter == self.max_iter - 1)
            self._trained = -1

    def _refuse_other_data(self) -> None:
        problem = ""
        if comm.is_main_process():
            if self._saved_data is None:
                logger.warning(
                    "The checkpoint does not say on which images the run began: that they are the same is not checked"
                )
            else:
                problem = other_data(self.cfg, self.data_fingerprint, self._saved_data)
        if problem := comm.all_gather(problem)[0]:
            raise ValueError(problem)

    @property
    def data_fingerprint(self) -> DataFingerprint:
        """Of the data sets as they are when it is asked for first: every file's size is read."""
        if self._data is None:
            self._data = DataFingerprint(self.cfg)
        return self._data

    def run_step(self) -> None:
        """One optimizer step on the next batch."""
        started = time.perf_counter()
        batch = next(self._sample_stream())
        data_time_s = time.perf_counter() - started

        # Gradients.
        seed_iteration(self.seed, rank=comm.get_rank(), iteration=self.iter)
        losses, gradient_norm = self.step.backward(batch, self.iter)
        self.after_backward()
        # Refuse what is not finite before the weights change.
        metrics = gather_metrics(self.step, batch, losses, gradient_norm, iteration=self.iter, data_time_s=data_time_s)
        if comm.is_main_process():
            for name, value in metrics.items():
                self.storage.put_scalar(name, value)
        # Update.
        self.step.update(finite=math.isfinite(metrics["grad_norm"]))
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

    def state_dict(self) -> dict[str, object]:
        """Iteration, hooks (the schedule among them), optimizer, loss scaler, seed, which weights are evaluated, and
        the fingerprint of the data sets, on the main process, which saves."""
        data = {"data": self.data_fingerprint.state_dict()} if comm.is_main_process() else {}
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "seed": self.seed,
            "evaluated_weights": self.evaluated_model()[1],
            **data,
        }

    def misfits(self, state_dict: object) -> list[str]:
        """In words, why load_state_dict would not take this state; asked before anything is loaded."""
        own = {**super().state_dict(), "scaler": self.step.scaler.state_dict(), "seed": self.seed}
        lines = state_misfits(own, state_dict, "trainer", required=("iteration", "optimizer"))
        if isinstance(state_dict, dict) and "optimizer" in state_dict:
            lines += optimizer_misfits(self.optimizer, state_dict["optimizer"], "trainer.optimizer")
        return lines

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if state_dict.get("scaler"):
            self.step.scaler.load_state_dict(state_dict["scaler"])
        self.seed = state_dict.get("seed", self.seed)
        self._saved_data = state_dict.get("data")

    # ------------------------------------------------------------------------------------------------ what to override

    def build_hooks(self) -> list[HookBase | None]:
        """In the order in which they run: what changes the model, what saves and tests it, what writes that down."""
        return standard_hooks(self)

    def build_writers(self) -> list[EventWriter]:
        """Log lines, metrics.json and TensorBoard; Weights & Biases where WANDB.ENABLED."""
        return run_writers(self.cfg, self.max_iter)

    def evaluated_model(self) -> tuple[nn.Module, str]:
        """The model that evaluation looks at, and what its weights are: "ema" or "trained"."""
        return (self.average.model, "ema") if self.average else (self.checkpointer.model, "trained")

    def evaluate(self) -> Results:
        """Test the model that the checkpoint holds: on every rank with the main process's running statistics."""
        model, kind = self.evaluated_model()
        copy_main_buffers(model)
        logger.info("Evaluating the %s weights", kind)
        self._evaluation = Evaluation(self.cfg, num_examples=NUM_EXAMPLES * comm.is_main_process())
        self.last_eval_results = run_test(self.test, self.cfg, model, self._evaluation)
        return self.last_eval_results

    def new_pictures(self) -> Mapping[str, np.ndarray]:
        """Name -> (H, W, 3) uint8: those of the latest evaluation, once."""
        evaluation, self._evaluation = self._evaluation, None
        return self.pictures(evaluation) if evaluation else {}
