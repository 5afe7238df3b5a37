"""float16's loss scale: a search for it may skip updates, a run may not skip them all. Oracle: the scale's halvings."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scaleeq.training import Trainer
from scaleeq.training.metrics import MAX_SKIPPED, gather_metrics
from scaleeq.training.step import TrainingStep

from .tiny import tiny_config


class Exploding(nn.Module):
    """One weight, whose gradient is what a list says, call after call."""

    def __init__(self, gradients):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        gradients = iter([*gradients, 1.0])
        self.weight.register_hook(lambda scaled: scaled * next(gradients))

    def forward(self, batch):
        return {"loss": self.weight * 1.0}


def steps_of(gradients, *, scale=2.0**16):
    """Take a float16 step for each gradient; yields the step and its metrics, as a trainer has them."""
    model = Exploding(gradients)
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.5), micro_batch=1, dtype=torch.float16)
    step.scaler.scale(torch.ones(()))
    step.scaler.update(scale)
    for iteration in range(len(gradients)):
        losses, norm = step.backward([{}], iteration)
        metrics = gather_metrics(step, [{}], losses, norm, iteration=iteration, data_time_s=0.0)
        step.update(finite=math.isfinite(metrics["grad_norm"]))
        yield step, metrics


def test_the_search_for_a_scale_is_allowed_and_trains_on():
    taken = list(steps_of([math.inf] * 16 + [0.25]))
    norms = [metrics["grad_norm"] for _, metrics in taken]
    assert all(map(math.isnan, norms[:16])) and norms[16] == 0.25
    step = taken[-1][0]
    assert step.scaler.get_scale() == 1.0
    assert step.skipped == 0
    assert step.model.weight.item() == 1 - 0.5 * 0.25


@pytest.mark.parametrize(
    ("scale", "skipped"),
    [(2.0**16, 16), (8.0, 3), (1.0, 0), (2.0**100, MAX_SKIPPED - 1)],  # down to a scale of 1, or too often
)
def test_float16_without_any_update_stops_as_other_types_do(scale, skipped):
    taken = []
    with pytest.raises(FloatingPointError, match=r"gradients of weight") as error:
        taken.extend(steps_of([math.nan] * 60, scale=scale))
    assert len(taken) == skipped
    assert f"iteration {skipped} is not finite" in str(error.value)
    assert "SOLVER.AMP.DTYPE bfloat16" in str(error.value)


def test_an_update_between_skipped_ones_starts_the_count_again():
    gradients = ([math.nan] * (MAX_SKIPPED - 1) + [1.0]) * 2
    assert len(list(steps_of(gradients, scale=2.0**100))) == len(gradients)


def test_a_float16_run_with_broken_gradients_stops_and_leaves_json(tmp_path):
    changes = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "float16", "DATASETS__TEST": ()}
    trainer = Trainer(tiny_config(tmp_path, SOLVER__MAX_ITER=8, MODEL__TIMM__NAME="test_resnet", **changes))
    model = trainer.checkpointer.model
    model.sem_seg_head.classifier.weight.register_hook(lambda gradient: gradient * torch.nan)
    trainer.step.scaler.scale(torch.ones(()))
    trainer.step.scaler.update(4.0)
    with pytest.raises(FloatingPointError, match=r"gradients of sem_seg_head\.classifier\.weight"):
        trainer.train()
    assert trainer.iter == 2
    for line in (tmp_path / "metrics.json").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    assert not list(tmp_path.glob("*.pth"))


class Reads(TorchDispatchMode):
    """How often a single number is read, on any device."""

    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.num += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("gradient", [1.0, math.inf])
def test_an_overflow_is_not_read_a_second_time(gradient):
    """The norm has told it, in the one read of a step; GradScaler.step would look again, as a step without it does."""
    with Reads() as reads:
        ((step, _),) = steps_of([gradient])
    assert reads.num == 0
    assert step.scaler.get_scale() == (2.0**16 if gradient == 1 else 2.0**15)
    with Reads() as reads:
        step.model.zero_grad()
        step.scaler.scale(step.model.weight * 1.0).backward()
        step.update()
    assert reads.num == 1
