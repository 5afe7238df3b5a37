"""Optimizer, schedules, clipping. Oracles: closed forms and, where it is installed, Detectron2's own solver."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scaleeq.engine import load_config
from scaleeq.engine.checkpoint_misfits import optimizer_misfits
from scaleeq.training.solver import (
    build_gradient_clipper,
    build_lr_scheduler,
    build_optimizer,
    lr_multiplier,
    takes_fused_steps,
)

SCHEDULES = {
    "poly": ["LR_SCHEDULER_NAME", "WarmupPolyLR"],
    "poly_power_1_floor": ["LR_SCHEDULER_NAME", "WarmupPolyLR", "POLY_LR_POWER", 1.0, "POLY_LR_CONSTANT_ENDING", 0.1],
    "poly_constant_warmup": ["LR_SCHEDULER_NAME", "WarmupPolyLR", "WARMUP_METHOD", "constant", "WARMUP_FACTOR", 0.25],
    "cosine": ["LR_SCHEDULER_NAME", "WarmupCosineLR"],
    "cosine_to_a_tenth": ["LR_SCHEDULER_NAME", "WarmupCosineLR", "BASE_LR_END", 1e-3],
    "cosine_rescaled": ["LR_SCHEDULER_NAME", "WarmupCosineLR", "RESCALE_INTERVAL", True],
    "cosine_flat_warmup": ["LR_SCHEDULER_NAME", "WarmupCosineLR", "WARMUP_METHOD", "constant", "WARMUP_FACTOR", 0.5],
    "steps": ["LR_SCHEDULER_NAME", "WarmupMultiStepLR", "STEPS", (20, 35)],
    "steps_inside_warmup": ["LR_SCHEDULER_NAME", "WarmupMultiStepLR", "STEPS", (3, 35)],
    "steps_rescaled": ["LR_SCHEDULER_NAME", "WarmupMultiStepLR", "STEPS", (20, 35), "RESCALE_INTERVAL", True],
    "no_warmup": ["LR_SCHEDULER_NAME", "WarmupMultiStepLR", "STEPS", (20, 35), "WARMUP_ITERS", 0],
}


def solver_config(*options):
    """Options without their "SOLVER." prefix, over a run of 40 iterations, 7 of them warm-up, at 0.01."""
    settings = ["BASE_LR", 0.01, "MAX_ITER", 40, "WARMUP_ITERS", 7, "STEPS", (30,), *options]
    return load_config("", [f"SOLVER.{item}" if i % 2 == 0 else str(item) for i, item in enumerate(settings)])


def learning_rates(scheduler, optimizer, num_steps):
    rates = []
    for _ in range(num_steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


def two_group_optimizer():
    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    return torch.optim.SGD([{"params": [first], "lr": 0.01}, {"params": [second], "lr": 0.001}], lr=0.01)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_equals_detectron2(name):
    deeplab = pytest.importorskip("detectron2.projects.deeplab", reason="the oracle is Detectron2's DeepLab project")
    cfg = solver_config(*SCHEDULES[name])
    ours, theirs = two_group_optimizer(), two_group_optimizer()
    got = learning_rates(build_lr_scheduler(cfg, ours), ours, 40)
    expected = learning_rates(deeplab.build_lr_scheduler(cfg, theirs), theirs, 40)
    for got_rates, expected_rates in zip(got, expected, strict=True):
        assert got_rates == pytest.approx(expected_rates, rel=1e-12, abs=1e-18)


def test_poly_closed_form():
    factor = lr_multiplier(solver_config(*SCHEDULES["poly_power_1_floor"], "WARMUP_FACTOR", 0.001))
    assert factor(0) == pytest.approx(0.001)
    assert factor(3) == pytest.approx((0.001 * 4 / 7 + 3 / 7) * (1 - 3 / 40))
    assert factor(20) == pytest.approx(0.5)
    assert factor(36) == pytest.approx(0.1)
    assert [factor(iteration) for iteration in (37, 39, 40)] == [0.1, 0.1, 0.1]


def test_cosine_closed_form_is_continuous_where_warm_up_ends():
    factor = lr_multiplier(solver_config(*SCHEDULES["cosine_to_a_tenth"]))
    assert factor(20) == pytest.approx(0.1 + 0.45)
    assert factor(40) == pytest.approx(0.1)
    assert factor(7) == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 7 / 40)))
    assert factor(7) - factor(6) == pytest.approx(factor(6) - factor(5))


def test_multi_step_closed_form():
    factor = lr_multiplier(solver_config("LR_SCHEDULER_NAME", "WarmupMultiStepLR", "STEPS", (20, 35), "GAMMA", 0.5))
    assert [factor(iteration) for iteration in (7, 19, 20, 34, 35, 39)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_continues_over_a_checkpoint(name):
    cfg = solver_config(*SCHEDULES[name])
    unbroken = two_group_optimizer()
    expected = learning_rates(build_lr_scheduler(cfg, unbroken), unbroken, 30)
    first = two_group_optimizer()
    scheduler = build_lr_scheduler(cfg, first)
    rates = learning_rates(scheduler, first, 11)
    resumed = two_group_optimizer()
    resumed_scheduler = build_lr_scheduler(cfg, resumed)
    resumed.load_state_dict(first.state_dict())
    resumed_scheduler.load_state_dict(scheduler.state_dict())
    assert rates + learning_rates(resumed_scheduler, resumed, 19) == expected


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        (["LR_SCHEDULER_NAME", "PolyLR"], "WarmupPolyLR"),
        (["LR_SCHEDULER_NAME", "WarmupPolyLR", "WARMUP_METHOD", "exponential"], "linear, constant"),
        (["LR_SCHEDULER_NAME", "WarmupCosineLR", "BASE_LR_END", 0.02], "BASE_LR"),
    ],
)
def test_unknown_schedules_are_refused_with_the_choices(options, choice):
    with pytest.raises(ValueError, match=choice):
        lr_multiplier(solver_config(*options))


# ---------------------------------------------------------------------------------------------------- optimizer


def test_optimizer_names():
    assert isinstance(build_optimizer(solver_config("OPTIMIZER", "ADAMW"), nn.Linear(2, 2)), torch.optim.AdamW)
    sgd = build_optimizer(solver_config("OPTIMIZER", "SGD", "MOMENTUM", 0.8, "NESTEROV", True), nn.Linear(2, 2))
    assert isinstance(sgd, torch.optim.SGD)
    assert all(group["momentum"] == 0.8 and group["nesterov"] for group in sgd.param_groups)
    with pytest.raises(ValueError, match="SGD, ADAMW"):
        build_optimizer(solver_config("OPTIMIZER", "Lion"), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="frozen"):
        build_optimizer(solver_config(), nn.Linear(2, 2).requires_grad_(False))


def trained(*options, kind="SGD", steps=5):
    """The weights of a model after a few steps, and the state of its optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 1))
    optimizer = build_optimizer(solver_config("OPTIMIZER", kind, "WEIGHT_DECAY", 0.01, *options), model)
    x = torch.randn(2, 3, 9, 9)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()], optimizer


@pytest.mark.parametrize("kind", ["SGD", "ADAMW"])
def test_a_fused_step_is_the_step_but_for_rounding(kind):
    plain, fused = (trained("FUSED", flag, kind=kind) for flag in (False, True))
    assert {group["fused"] for group in plain[1].param_groups} == {None}
    assert {group["fused"] for group in fused[1].param_groups} == {True}
    for one, other in zip(plain[0], fused[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_which_models_have_a_fused_step():
    model = nn.Linear(2, 2)
    assert takes_fused_steps(solver_config(), model)
    assert takes_fused_steps(solver_config("AMP.ENABLED", True), model)
    assert not takes_fused_steps(solver_config("FUSED", False), model)
    assert not takes_fused_steps(solver_config("AMP.ENABLED", True, "AMP.DTYPE", "float16"), model)
    assert not takes_fused_steps(solver_config(), nn.Linear(2, 2, device="meta"))
    assert not takes_fused_steps(solver_config(), nn.Linear(2, 2).bfloat16())
    assert not takes_fused_steps(solver_config(), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double()]))


@pytest.mark.parametrize("kind", ["SGD", "ADAMW"])
def test_a_state_says_how_its_optimizer_steps(kind):
    _, plain = trained("FUSED", False, kind=kind)
    _, fused = trained("FUSED", True, kind=kind)
    assert not optimizer_misfits(fused, plain.state_dict(), "optimizer")
    fused.load_state_dict(plain.state_dict())
    assert {group["fused"] for group in fused.param_groups} == {None}


# ---------------------------------------------------------------------------------------------------- clipping


def clipped(clip_type, limit=1.0):
    """Gradients (3, 4) and (0.3, 0.4) after clipping."""
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])
    options = ["ENABLED", True, "CLIP_TYPE", clip_type, "CLIP_VALUE", limit]
    options = [f"CLIP_GRADIENTS.{item}" if i % 2 == 0 else item for i, item in enumerate(options)]
    build_gradient_clipper(solver_config(*options))(parameters)
    return [parameter.grad.tolist() for parameter in parameters]


def test_clipping_closed_forms():
    assert clipped("value", 3.5) == [[3.0, 3.5], pytest.approx([0.3, 0.4])]
    assert clipped("norm") == [pytest.approx([0.6, 0.8], rel=1e-5), pytest.approx([0.3, 0.4])]
    scale = 1 / math.hypot(5, 0.5)
    assert clipped("full_model") == [
        pytest.approx([3 * scale, 4 * scale], rel=1e-5),
        pytest.approx([0.3 * scale, 0.4 * scale], rel=1e-5),
    ]


def test_clipping_off_and_unknown():
    assert build_gradient_clipper(solver_config()) is None
    with pytest.raises(ValueError, match="value, norm, full_model"):
        clipped("total")


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0])
def test_the_norm_of_each_parameter_is_clipped_as_torch_clips_one(norm_type):
    clip = {"ENABLED": True, "CLIP_TYPE": "norm", "CLIP_VALUE": 1.5, "NORM_TYPE": norm_type}
    options = [word for key, value in clip.items() for word in (f"CLIP_GRADIENTS.{key}", value)]
    clipper = build_gradient_clipper(solver_config(*options))
    models = [torch.nn.Sequential(torch.nn.Linear(3, 40), torch.nn.Linear(40, 2)) for _ in range(2)]
    for model in models:
        torch.manual_seed(0)
        for scale, parameter in zip((1e-3, 1.0, 10.0), model.parameters(), strict=False):  # the last one has none
            parameter.grad = scale * torch.randn_like(parameter)
    before = [parameter.grad.clone() for parameter in list(models[0].parameters())[:3]]
    clipper(list(models[0].parameters()))
    for parameter in models[1].parameters():
        torch.nn.utils.clip_grad_norm_(parameter, 1.5, norm_type)
    for parameter, expected in zip(*(model.parameters() for model in models), strict=True):
        assert parameter.grad is expected.grad is None or torch.equal(parameter.grad, expected.grad)
    assert torch.equal(models[0][0].weight.grad, before[0]) and not torch.equal(models[0][1].weight.grad, before[2])
    clipper([torch.nn.Parameter(torch.ones(2))])
