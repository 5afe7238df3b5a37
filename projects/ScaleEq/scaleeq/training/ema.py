"""An exponential moving average of the weights, the ones that are evaluated where SOLVER.EMA_DECAY is set.

Source: the average is torch's AveragedModel's, with the decay's warm-up of TensorFlow (used by EfficientDet),
min(decay, (1 + n) / (10 + n)) after n updates. Running statistics are averaged too: they then belong to the averaged
weights (as in timm). Deviations: other buffers are copied, for neither counters, nor the constants of a scale
equalizer, nor the infinities of a mask have a mean; the number of updates is counted here, not read from the device.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

AVERAGED_BUFFERS = ("running_mean", "running_var")


class WeightAverage:
    """model: a copy of the given one, with the average of what `update` was shown.

    Its state dict has the keys of the model's.
    """

    def __init__(self, model: nn.Module, *, decay: float):
        """ValueError: decay is not in (0, 1)."""
        if not 0.0 < decay < 1.0:
            raise ValueError(f"SOLVER.EMA_DECAY is {decay}; an average needs one in (0, 1), and 0 means none")
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False)
        self._num_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step's weights in; the first ones are copied."""
        (averages, copies), (current, given) = _split(self.model), _split(model)
        if self._num_updates == 0:
            averages, copies, current, given = [], averages + copies, [], current + given
        if averages:
            decay = min(self.decay, (1 + self._num_updates) / (10 + self._num_updates))
            torch._foreach_lerp_(averages, current, 1 - decay)
        if copies:
            torch._foreach_copy_(copies, given)
        self._num_updates += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(state_dict)

    def resume(self, num_updates: int) -> None:
        """Go on after `num_updates` updates."""
        self._num_updates = num_updates


def _split(model: nn.Module) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The tensors that are averaged, and those that are copied."""
    averaged: list[torch.Tensor] = [*model.parameters()]
    copied: list[torch.Tensor] = []
    for name, buffer in model.named_buffers():
        is_statistic = name.rpartition(".")[2] in AVERAGED_BUFFERS and buffer.is_floating_point()
        (averaged if is_statistic else copied).append(buffer)
    return averaged, copied
