"""A row of Fusions, each fed with what the one before it gave: the top-down and bottom-up paths of every pyramid."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from scaleeq.fusion import Fusion


class Chain(nn.ModuleDict):
    """Level -> Fusion, in the order in which they run.

    Each Fusion has one branch of the name `carried` for the running map; its other branches are its level's own.
    """

    def __init__(self, fusions: Mapping[str, Fusion], *, carried: str):
        super().__init__(fusions)
        self.carried = carried

    def forward(self, start: torch.Tensor, inputs: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """start: (N, C, h, w); inputs: level -> branch -> map -> level -> (N, C, H_level, W_level)."""
        running, results = start, {}
        for level, fusion in self.items():
            # What one level gave is the carried branch of the next one.
            running = fusion({**inputs[level], self.carried: running})
            results[level] = running
        return results
