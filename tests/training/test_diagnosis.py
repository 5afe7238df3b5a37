"""Where a number that is not finite is found. How the trainer tells it: test_step.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaleeq.training.diagnosis import FINITE, explain


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
