"""What recording the scales costs a training run, against the same steps without it."""

from __future__ import annotations

import tempfile
import time
from statistics import median
from typing import Any

import torch
from torch import nn

from scaleeq.engine import EventStorage, TrainerBase
from scaleeq.equalization.gradients import training_loss
from scaleeq.training.scale_hooks import ScaleStatisticsHook


class _Loop(TrainerBase):
    """Forward, backward and SGD on one batch."""

    def __init__(self, model: nn.Module, batch: list[dict[str, Any]]):
        super().__init__()
        self.loss, self.batch = training_loss(model), batch
        self.optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
        self.iter, self.start_iter, self.max_iter = 0, 0, 1 << 30

    def run_step(self) -> None:
        self.optimizer.zero_grad()
        self.loss(self.batch).backward()
        self.after_backward()
        self.optimizer.step()


def recording_cost(
    model: nn.Module, batch: list[dict[str, Any]], *, rounds: int = 5, period: int = 100
) -> dict[str, Any]:
    """Time training steps with and without a record of all scales, alternately, in one run.

    Args:
        model: returns losses by name in training.
        batch: what it takes.
        rounds: measurements of each; medians are returned.
        period: of the records, iterations.

    Returns:
        seconds of a plain step and of a recorded one (its files included), their ratio, and the share of a training's
        time that a record every `period` iterations takes.
    """
    model.train()
    loop = _Loop(model, batch)

    def step(recorded: bool) -> float:
        started = time.perf_counter()
        if recorded:
            loop.before_step()
        loop.run_step()
        if recorded:
            loop.after_step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        loop.iter += recorded
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder, EventStorage(0) as loop.storage:
        loop.register_hooks([ScaleStatisticsHook(model, period=1, output_dir=folder)])
        step(False), step(True)  # warm up
        times = [(step(False), step(True)) for _ in range(rounds)]
    plain, recorded = (median(column) for column in zip(*times, strict=True))
    ratio = median(with_record / without for without, with_record in times)
    return {
        "plain_step_s": plain,
        "recorded_step_s": recorded,
        "ratio": ratio,
        "period": period,
        "share_of_training": (ratio - 1) / period,
        "rounds": rounds,
    }
