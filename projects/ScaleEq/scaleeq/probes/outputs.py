"""What is recorded of the levels that leave a module, a pyramid say: the scale at which heads that share their weights
over levels meet each of them. Equalized sums do not equalize levels, because the coarsest one is no sum.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from scaleeq.equalization.forwards import Gather, alone
from scaleeq.equalization.moments import BranchMoments
from scaleeq.equalization.result import spread
from scaleeq.records import Json


class OutputRecorder:
    """Watches a module, images -> level -> map, in a block.

    with OutputRecorder(backbone) as recorder:
        model(batch)
    recorder.finish()
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self._moments: dict[str, BranchMoments] = {}

    def __enter__(self) -> OutputRecorder:
        self._handle = self.module.register_forward_hook(self._look)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    @torch.no_grad()
    def _look(self, module: nn.Module, inputs: object, levels: dict[str, torch.Tensor]) -> None:
        for name, x in levels.items():
            self._moments.setdefault(name, BranchMoments()).update(x)

    def finish(self, gather: Gather = alone) -> Json:
        """Level -> {"mean", "std"} over all its values, padding included; "spread": largest over smallest std.

        gather: all processes' objects, where several share a step. Nothing ran: nothing is returned.
        """
        merged: dict[str, BranchMoments] = {}
        for of_rank in gather(self._moments):
            for name, moments in of_rank.items():
                merged.setdefault(name, BranchMoments()).merge(moments)
        self._moments = {}
        record: Json = {}
        for name, moments in merged.items():
            mean, variance = moments.scalar()
            record[name] = {"mean": mean, "std": math.sqrt(variance)}
        stds = [numbers["std"] for numbers in record.values()]
        return record | {"spread": largest} if stds and math.isfinite(largest := spread(stds)) else record
