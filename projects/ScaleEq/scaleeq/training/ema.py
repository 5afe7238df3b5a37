"""An exponential moving average of the weights, the ones that are evaluated where SOLVER.EMA_DECAY is set.

Source: torch's AveragedModel; the warm-up of the decay, min(decay, (1 + n) / (10 + n)) after n updates, is TensorFlow's
(used by EfficientDet). Buffers are averaged too: running statistics then belong to the averaged weights (as in timm).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """model: a copy of the given one, with the average of what `update` was shown.

    Its state dict has the keys of the model's.
    """

    def __init__(self, model: nn.Module, *, decay: float):
        """ValueError: decay is not in (0, 1)."""
        if not 0.0 < decay < 1.0:
            raise ValueError(f"SOLVER.EMA_DECAY is {decay}; an average needs one in (0, 1), and 0 means none")
        self.decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._blend, use_buffers=True).requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        return self._averaged.module

    def update(self, model: nn.Module) -> None:
        """Take one step's weights in; the first ones are copied."""
        self._averaged.update_parameters(model)

    def _blend(self, averages: Any, current: Any, num_averaged: Any) -> None:
        updates = int(num_averaged)
        decay = min(self.decay, (1 + updates) / (10 + updates))
        get_ema_multi_avg_fn(decay)(averages, current, num_averaged)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(state_dict)

    def resume(self, num_updates: int) -> None:
        """Go on after so many updates."""
        self._averaged.n_averaged.fill_(num_updates)
