"""replace_batch_norms. Oracle: the model before, and its tensors."""

from __future__ import annotations

import copy

import torch
from torch import nn

from scaleeq.layers import BatchNorm2d, replace_batch_norms


class Counted(nn.BatchNorm2d):
    """A batch norm of another class."""


class Activated(nn.BatchNorm2d):
    """A batch norm that does more: it must stay."""

    def forward(self, x):
        return super().forward(x).relu()


def test_the_tensors_and_numbers_stay_and_the_class_changes():
    inner = nn.Sequential(nn.BatchNorm2d(3, eps=0.1, momentum=0.5), Activated(3))
    model = nn.Sequential(BatchNorm2d(3, momentum=0.3), inner, nn.Conv2d(3, 3, 1))
    x = torch.randn(2, 3, 4, 4)
    model(x)
    inner.eval()
    inner[0].requires_grad_(False)
    original = copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    replace_batch_norms(model, Counted)
    assert [type(model[0]), type(inner[0]), type(inner[1])] == [Counted, Counted, Activated]
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert list(model.state_dict()) == list(original.state_dict())
    assert [m.training for m in model.modules()] == [m.training for m in original.modules()]
    assert [(norm.eps, norm.momentum) for norm in (model[0], inner[0])] == [(1e-5, 0.3), (0.1, 0.5)]
    for _ in range(2):
        assert torch.equal(model(x), original(x))
    assert all(torch.equal(value, original.state_dict()[key]) for key, value in model.state_dict().items())
