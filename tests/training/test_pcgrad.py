"""PCGrad: the projection against the paper's algorithm in plain loops, and the step against plain gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scaleeq.tasks.weighting import collected_task_losses
from scaleeq.training.pcgrad import ProjectedStep, projected, random_orders, refuse_processes, split_parameters
from scaleeq.training.step import TrainingStep, seed_iteration
from tests.tasks.test_joint import TASKS, config, make, make_batch

PCGRAD = {"MODEL__TASKS__WEIGHTING": "pcgrad"}


def by_the_paper(gradients, orders):
    """Algorithm 1, a number at a time."""
    left = [[float(x) for x in g] for g in gradients]
    for own, order in zip(left, orders, strict=True):
        for other in order:
            g = [float(x) for x in gradients[other]]
            product = sum(a * b for a, b in zip(own, g, strict=True))
            if product < 0:
                share = product / sum(x * x for x in g)
                own[:] = [a - share * b for a, b in zip(own, g, strict=True)]
    return [sum(column) for column in zip(*left, strict=True)]


@pytest.mark.parametrize("num", [2, 3, 5])
def test_projection(num):
    gradients = torch.randn(num, 7, generator=torch.Generator().manual_seed(num), dtype=torch.float64)
    seed_iteration(0, rank=0, iteration=num)
    orders = random_orders(num)
    assert [sorted([index, *order]) for index, order in enumerate(orders)] == [list(range(num))] * num
    expected = torch.tensor(by_the_paper(gradients, orders), dtype=torch.float64)
    torch.testing.assert_close(projected(gradients, orders), expected)


def test_what_agrees_is_added_and_opposites_leave_nothing():
    agreeing = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert torch.equal(projected(agreeing, [[1], [0]]), torch.tensor([2.0, 1.0]))
    assert torch.equal(projected(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), [[1], [0]]), torch.zeros(2))
    assert torch.equal(projected(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), [[1], [0]]), torch.tensor([1.0, 0.0]))


def still(model):
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_the_step(tmp_path, micro_batch):
    """Shared parameters get the projection of the tasks' own gradients, the others what they always get."""
    model, batch = still(make(tmp_path, **PCGRAD)), make_batch(*[(64, 64)] * 4)
    batch[0]["sem_seg"][:30] = 255
    # By hand, over the whole batch.
    with collected_task_losses() as told:
        losses = model(batch)
    shared, own = split_parameters(model)
    flats = [
        torch.cat([g.flatten() for g in torch.autograd.grad(told.totals[task], shared, retain_graph=True)])
        for task in TASKS
    ]
    expected_own = torch.autograd.grad(sum(losses.values()), own)
    # By the step.
    step = ProjectedStep(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batch=micro_batch)
    np.random.seed(0)
    step.backward(batch, 0)
    expected = projected(torch.stack(flats), [[1], [0]])
    found = torch.cat([p.grad.flatten() for p in shared])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    for parameter, gradient in zip(own, expected_own, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    assert {id(p) for p in shared + own} == {id(p) for p in model.parameters()}


def test_what_is_shared(tmp_path):
    model = make(tmp_path, **PCGRAD)
    names = {id(p): name for name, p in model.named_parameters()}
    shared, own = ({names[id(p)].split(".")[0] for p in part} for part in split_parameters(model))
    assert shared == {"backbone", "decoders"} and own == {"decoders", "tasks", "aux_heads"}
    assert all("shared" in names[id(p)] or "backbone" in names[id(p)] for p in split_parameters(model)[0])


def test_refusals(tmp_path):
    cfg, model = config(tmp_path, **PCGRAD), make(tmp_path, **PCGRAD)
    refuse_processes(cfg, 1)
    with pytest.raises(ValueError, match="'pcgrad' trains in one process, not in 2"):
        refuse_processes(cfg, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="PCGrad does not scale losses"):
        ProjectedStep(model, optimizer, micro_batch=1, dtype=torch.float16)
    assert issubclass(ProjectedStep, TrainingStep)
