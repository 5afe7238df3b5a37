"""Where a number that is not finite is found. How the trainer tells it: test_step.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scaleeq.training.diagnosis import FINITE, describe_step, explain
from scaleeq.training.step import TrainingStep


class Wrapped(nn.Module):
    """Gives its input in a container."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(x)


CONTAINERS = {
    "list": lambda x: ["the maps", x],
    "tuple in a tuple": lambda x: ((torch.ones(1), x),),
    "list in a dict": lambda x: {"name": b"the maps", "maps": [x]},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_outputs_are_looked_at_in_containers_of_all_kinds(kind):
    model = Wrapped(CONTAINERS[kind])
    assert explain(model, lambda: model(torch.ones(1))) == FINITE
    bad = torch.full((1,), torch.nan)
    assert "that of the model (Wrapped), whose input was not finite" in explain(model, lambda: model(bad))


@pytest.mark.parametrize(
    ("loss", "norm", "told"),
    [
        (1.0, 2.0, ""),
        (math.nan, 2.0, "loss nan; gradient norm 2; every output of a second forward was finite; the batch's files: a"),
        (1.0, math.inf, "loss 1; gradient norm inf; every output of a second forward was finite; the batch's files: a"),
    ],
)
def test_a_rank_whose_numbers_are_finite_has_nothing_to_tell(loss, norm, told):
    model = nn.Linear(1, 1)
    model.forward = lambda batch: {"loss": model.weight.sum()}
    step = TrainingStep(model, torch.optim.SGD(model.parameters(), lr=0.1), micro_batch=1)
    assert describe_step(step, [{"file_name": "a"}], losses={"loss": loss}, norm=norm) == told
