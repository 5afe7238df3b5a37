"""The fusion of a UPer head side by side: laterals that a norm has made alike already, concatenated.

Each branch passes a 1x1 convolution with batch norm and ReLU, is equalized, and all are concatenated, mixed by a 1x1
convolution with batch norm and ReLU, and classified. Deviation from UPer: the laterals see pixels that are upsampled
already, so that all of it runs on random pixels; there is no pyramid and no pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .arms import Statistics, common_std
from .side_by_side import EPS, MOMENTUM, WIDTH, Design, Fusions, Probe, RunningMoments, uniform


@dataclass
class UPerLike(Fusions):
    """K fusions with laterals; a dose of the source is undone by the lateral's norm, but for its eps."""

    def _first(self, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """The laterals' weights (K, WIDTH, C); no bias, as norms follow."""
        widths, count = self.statistics.widths, len(self.probes)
        n = len(widths)
        weight = torch.cat([uniform(WIDTH, width, width, generator) for width in widths], 1)
        mix = uniform(self.outputs, n * WIDTH, n * WIDTH, generator)
        self._measure_laterals(weight)
        # What an arm changes in the weights that read the concatenation.
        mixes = []
        for probe, std in zip(self.probes, self.lateral_std, strict=True):
            divisor = torch.ones(n)
            if probe.arm == "init":
                divisor = std
            elif probe.arm == "smaller":
                divisor = common_std(std, [1] * n).expand(n)
            mixes.append(mix / divisor.repeat_interleave(WIDTH))
        self.more = {
            "mix": torch.stack(mixes),
            "lateral_gain": torch.ones(count, n, WIDTH),
            "lateral_offset": torch.zeros(count, n, WIDTH),
        }
        self.lateral_norms = RunningMoments((n, count * WIDTH))
        return weight.repeat(count, 1, 1), None

    def _measure_laterals(self, weight: Tensor) -> None:
        """Mean and std of each branch when it is concatenated, with the initial weights and the batch's statistics."""
        widths, sample = self.statistics.widths, self.statistics.sample
        branches = []
        for x, w in zip(sample.split(widths, 1), weight.split(widths, 1), strict=True):
            branches.append(F.batch_norm(x @ w.T, None, None, training=True, eps=EPS).relu())
        mean, std = (torch.stack([get(y) for y in branches]) for get in (torch.mean, torch.std))
        count = len(self.probes)
        self._set_lateral_affines(mean.expand(count, -1), std.expand(count, -1), WIDTH)

    def _concatenated(self, rows: Tensor, training: bool) -> Tensor:
        """(P, C) -> (P, K * H), before the norm."""
        count, widths, parameters = len(self.probes), self.statistics.widths, self.parameters
        branches = []
        for index, (x, weight) in enumerate(
            zip(rows.split(widths, 1), parameters["weight"].split(widths, 2), strict=True)
        ):
            y = (x @ weight.reshape(-1, x.shape[1]).T).view(-1, count, WIDTH) * self.doses[:, index, None]
            gain, offset = (parameters[f"lateral_{name}"][:, index].reshape(-1) for name in ("gain", "offset"))
            kept = self.lateral_norms.mean[index], self.lateral_norms.variance[index]
            y = F.batch_norm(y.flatten(1), *kept, gain, offset, training, MOMENTUM, EPS).relu()
            branches.append(self.equalized_lateral(index, y.view(-1, count, WIDTH), training))
        mixed = torch.bmm(torch.cat(branches, 2).transpose(0, 1), parameters["mix"].transpose(1, 2))
        return mixed.transpose(0, 1).reshape(len(rows), -1)


def make_fusions(design: Design, probes: Sequence[Probe], statistics: Statistics, seed: int) -> Fusions:
    """Of the class that the design asks for."""
    return (UPerLike if design.laterals else Fusions)(design, probes, statistics, seed)
