"""The hooks that every training has.

Source: the interface and behaviour of Detectron2's `engine/hooks.py` (what is measured, put and logged, and when; the
last evaluation happens in after_train and only after a success) and `solver/lr_scheduler.py` (multipliers).
Deviations: none known.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer
from torch.optim.lr_scheduler import LRScheduler as _TorchScheduler

from scaleeq.choices import flatten

from . import comm
from .events import EventWriter
from .train_loop import HookBase, State


class IterationTimer(HookBase):
    """Puts "time", the seconds of each step after the warm-up; logs totals at the end. Belongs first in the list."""

    def __init__(self, warmup_iter: int = 3) -> None:
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._total_timer = Timer()
        self._start_time = time.perf_counter()

    def before_train(self) -> None:
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        iterations_done = self.trainer.storage.iter - self.trainer.start_iter + 1
        if iterations_done >= self._warmup_iter:
            self.trainer.storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self) -> None:
        logger = logging.getLogger(__name__)
        total = time.perf_counter() - self._start_time
        in_steps = self._total_timer.seconds()
        num_iterations = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if num_iterations > 0 and in_steps > 0:
            logger.info(
                f"Overall training speed: {num_iterations} iterations in {_clock(in_steps)} "
                f"({in_steps / num_iterations:.4f} s / it)"
            )
        logger.info(f"Total training time: {_clock(total)} ({_clock(total - in_steps)} on hooks)")


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Calls the writers every `period` iterations, at the last one, and once more (then closes them) after training."""

    def __init__(self, writers: Sequence[EventWriter], period: int = 20) -> None:
        self._writers = writers
        for writer in writers:
            assert isinstance(writer, EventWriter), writer
        self._period = period

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self._period == 0 or self.trainer.iter == self.trainer.max_iter - 1:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()  # what other hooks put in their after_train
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's as a hook: "model_0000099" at iteration 99 for period 100, and "model_final" at the last iteration."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class _LRMultiplier(_TorchScheduler):
    """Every group's initial learning rate times multiplier(iteration / max_iter)."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int
    ) -> None:
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def get_lr(self) -> list[float | torch.Tensor]:
        multiplier = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * multiplier for base_lr in self.base_lrs]

    def state_dict(self) -> State:
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}


class LRScheduler(HookBase):
    """Puts "lr", the rate that the step used, then steps the scheduler.

    scheduler: torch's, or a fvcore ParamScheduler (a multiplier over relative time). What is None is the trainer's.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer | None = None, scheduler: _TorchScheduler | ParamScheduler | None = None
    ) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> Any:
        return self._scheduler or self.trainer.scheduler

    def before_train(self) -> None:
        self._optimizer = self._optimizer or self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = _LRMultiplier(
                self._optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._best_param_group_id = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """The group to report: the one with most parameters; where all have one, the first with the commonest rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        assert self._optimizer is not None
        lr = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", lr, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> State:
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchScheduler) else {}

    def load_state_dict(self, state_dict: State) -> None:
        if isinstance(self.scheduler, _TorchScheduler):
            logging.getLogger(__name__).info("Loading scheduler from state_dict ...")
            self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Evaluates every `eval_period` iterations (0: never) and after a training that succeeded; puts flattened results.

    eval_function: () -> nested dict of floats, or nothing. All ranks must have this hook, since it ends with a barrier.
    """

    def __init__(
        self, eval_period: int, eval_function: Callable[[], State | None], eval_after_train: bool = True
    ) -> None:
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            assert isinstance(results, dict), f"Eval function must return a dict. Got {results} instead."
            flat = dict(flatten(results, separator="/"))
            for name, value in flat.items():
                try:
                    float(value)
                except Exception as error:
                    raise ValueError(
                        f"[EvalHook] eval_function should return a nested dict of float. Got '{name}: {value}' instead."
                    ) from error
            self.trainer.storage.put_scalars(**flat, smoothing_hint=False)
        comm.synchronize()  # ranks take different time to evaluate

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        # The last evaluation is after_train's: even with eval_after_train=False it does not happen here.
        if self._period > 0 and next_iter % self._period == 0 and next_iter != self.trainer.max_iter:
            self._do_eval()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # it often closes over the trainer, which owns this hook
