"""Eight models that together contain every part of the grid can be exported and compiled, folded or not.

Oracle: the same model, eager.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq import calibrate, fold_equalizers
from scaleeq.engine import build_model

from . import grid
from .covering import Point, matches

IDS = [grid.name(point) for point in grid.REPRESENTATIVES]
TOLERANCE = 1e-5  # absolute, of logits of about 0.1 to 1


def slow(value: object) -> object:
    return pytest.param(value, marks=pytest.mark.slow)


class Logits(nn.Module):
    """The part of a segmentor that is exported: normalised images -> logits at the head's stride."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.logits(images)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_model(point: Point, *, folded: bool) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(grid.config(point))
    with torch.no_grad():  # a zero-started predictor would sample on the grid alone
        for path, parameter in model.named_parameters():
            if "predictor" in path:
                parameter.normal_(std=0.1)
    if point["equalizer"] != "off":
        calibrate(model, [draw(2, 3, 67, 93)], num_images=-1, inputs=lambda batch: (batch, None))
        model = fold_equalizers(model) if folded else model
    return model.eval()


def test_the_representatives_contain_every_part():
    for axis in ("head", "pyramid", "gate", "context_gate", "equalizer", "granularity", "statistic", "scope", "norm"):
        assert {point[axis] for point in grid.REPRESENTATIVES} >= set(grid.given(axis)) - {"none", "fpn"}, axis
    for axes in (("lateral",), ("transfer", "final_transfer"), ("combine", "final_combine"), ("backbone",)):
        found = {point[axis] for point in grid.REPRESENTATIVES for axis in axes}
        assert found >= {value for axis in axes for value in grid.given(axis)} - {"conv"}, axes
    for point in grid.REPRESENTATIVES:
        assert not [rule for rule in [*(rule for _, rule in grid.REFUSALS), *grid.UNREAD] if matches(rule, point)]


@pytest.mark.parametrize("folded", [slow(False), True], ids=["equalized", "folded"])
@pytest.mark.parametrize("point", grid.REPRESENTATIVES, ids=IDS)
def test_an_exported_model_computes_what_the_model_does(point, folded):
    model, images = Logits(make_model(point, folded=folded)), draw(1, 3, 67, 93, seed=1)
    with torch.no_grad():
        exported = torch.export.export(model, (images,)).module()
        other = draw(1, 3, 67, 93, seed=2)
        torch.testing.assert_close(exported(other), model(other), rtol=TOLERANCE, atol=TOLERANCE)


def compiled_equals_eager(point: Point, backend: str) -> None:
    model, images = Logits(make_model(point, folded=False)), draw(2, 3, 67, 93, seed=1)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    logits, gradients = [], []
    for one in (compiled, model):
        model.zero_grad()
        logits.append(one(images))
        logits[-1].square().mean().backward()
        gradients.append({path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*logits, rtol=1e-4, atol=TOLERANCE)
    assert gradients[0].keys() == gradients[1].keys()
    for path, gradient in gradients[1].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients[0][path], gradient, rtol=1e-3, atol=1e-3 * scale + 1e-7, msg=path)


BY_HEAD = {point["head"]: point for point in grid.REPRESENTATIVES}


@pytest.mark.parametrize("head", [head if head == "SepASPP" else slow(head) for head in BY_HEAD])
def test_a_model_is_compiled_as_one_graph_and_trains_as_it_does_without(head):
    compiled_equals_eager(BY_HEAD[head], "eager")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("head", BY_HEAD)
def test_a_model_compiled_by_a_backend_trains_as_it_does_without(head, backend):
    compiled_equals_eager(BY_HEAD[head], backend)
