"""The loss that "grad" calibrates on; balanced gradients are in ..equalization.test_controls. Oracle: sums by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaleeq.equalization.gradients import training_loss


class Losses(nn.Module):
    def __init__(self, *names: str):
        super().__init__()
        self.names = names
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch):
        losses = [self.weight * batch * (index + 1) for index, _ in enumerate(self.names)]
        return dict(zip(self.names, losses, strict=True)) if self.names else batch


def test_the_training_loss_is_the_sum_of_the_losses_by_name():
    model = Losses("loss_sem_seg", "loss_aux", "loss_gate")
    loss = training_loss(model)(torch.tensor(5.0))
    assert loss.item() == 2 * 5 * (1 + 2 + 3)
    assert torch.autograd.grad(loss, model.weight)[0].item() == 5 * (1 + 2 + 3)


def test_a_model_without_losses_by_name_is_refused():
    with pytest.raises(ValueError, match="in training Losses returns Tensor, not losses by name"):
        training_loss(Losses())(torch.tensor(5.0))
