"""An interaction in one file: 1x1 convolutions of other tasks' first predictions are added to the task's own map."""

from __future__ import annotations

import torch
from torch import nn

from scaleeq.ops import resize
from scaleeq.tasks import Interaction, register_interaction


@register_interaction("adding")
class Adding(Interaction):
    def __init__(self, width, others, *, norm):
        super().__init__(width, others, norm=norm)
        self.convs = nn.ModuleDict({task: nn.Conv2d(channels, width, 1) for task, channels in others.items()})

    def forward(self, fused: torch.Tensor, first: dict[str, torch.Tensor]) -> torch.Tensor:
        """fused: (N, width, h, w); first: other task -> (N, channels, h', w') -> (N, width, h, w)."""
        size = (fused.shape[-2], fused.shape[-1])
        return fused + sum(conv(resize(first[task], size)) for task, conv in self.convs.items())
