"""K fusions that are trained side by side: on the same pixels, from the same initial weights, each by its own rate.

All that stands before a fusion's first weight is frozen, so an arm that normalises branches is one scale and one shift
of each channel: constants, of the batch (batch_norm) or learnt (learnable). So K of them are one matrix product with
the weights W * scale and the biases W shift; parameters and states of the optimizer are each one's own, and gradients
are taken for W. `check` in evidence.probe compares this with modules that are written out and trained one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .arms import Statistics, affine, branch_affine, common_std, initial, over_channels
from .features import NUM_CLASSES

WIDTH = 32  # of the fusion's convolution
EPS, MOMENTUM = 1e-5, 0.1  # of batch norms


@dataclass(frozen=True)
class Design:
    """What a fusion does with its branches.

    width: 0: a linear classifier of the concatenation. norm: a batch norm after the convolution. sums: a 1x1 lateral a
    branch and a sum, without norms; equalizers act on the laterals' outputs. taps: of the convolution, 1 or 9.
    laterals: 1x1 conv + BN + ReLU of WIDTH channels on each branch, and a concatenation of those (upernet_like.py).
    """

    what: str
    width: int = WIDTH
    norm: bool = False
    sums: bool = False
    taps: int = 1
    laterals: bool = False


DESIGNS = {
    "linear": Design("concat, 1x1 classifier", width=0),
    "hidden": Design("concat, 1x1 conv + BN + ReLU, classifier", norm=True),
    "no_norm": Design("concat, 1x1 conv + ReLU, classifier"),
    "sum": Design("1x1 laterals, sum, ReLU, classifier", sums=True),
    "conv3x3": Design("concat, 3x3 conv + BN + ReLU, classifier", norm=True, taps=9),
    "upernet": Design("laterals of conv + BN + ReLU, then as hidden", width=2 * WIDTH, norm=True, laterals=True),
}


@dataclass(frozen=True)
class Probe:
    """One fusion: its arm, its learning rate, and a branch that is multiplied by `dose` first."""

    arm: str
    rate: float
    dose: float = 1.0
    branch: int = -1

    def doses(self, n: int) -> Tensor:
        """(n,) factors of the branches."""
        factors = torch.ones(n)
        factors[self.branch] = self.dose
        return factors


@dataclass
class Fusions:
    """K fusions of one design. parameters: name -> (K, ...); a seed is one set of initial weights, for all."""

    design: Design
    probes: Sequence[Probe]
    statistics: Statistics
    seed: int
    parameters: dict[str, Tensor] = field(init=False)
    more: dict[str, Tensor] = field(init=False, default_factory=dict)  # what a subclass draws besides

    def __post_init__(self) -> None:
        count, widths = len(self.probes), self.statistics.widths
        self.outputs = self.design.width or NUM_CLASSES
        self.doses = torch.stack([probe.doses(len(widths)) for probe in self.probes])
        self.is_normed = torch.tensor([probe.arm == "batch_norm" for probe in self.probes])[:, None]
        self.is_learnt = torch.tensor([probe.arm == "learnable" for probe in self.probes])[:, None]
        # One draw for all.
        generator = torch.Generator().manual_seed(1000 + self.seed)
        weight, bias = self._first(generator)
        drawn = {"factor": torch.ones(count, len(widths)), "weight": weight, **self.more}
        if bias is not None:
            drawn["bias"] = bias
        if self.design.width:
            self._make_second(drawn, generator)
        self.parameters = {name: value.clone().requires_grad_() for name, value in drawn.items()}

    def _first(self, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """The weights (K, H, taps * C) that meet the branches, and their biases (K, H); what normalises branches."""
        widths, taps = self.statistics.widths, self.design.taps
        fan = sum(widths) * taps
        if self.design.sums:  # each lateral is drawn for its own width
            weight = torch.cat([uniform(self.outputs, width, width, generator) for width in widths], 1)
        else:
            weight = uniform(self.outputs, fan, fan, generator)
        bias = None if self.design.norm else uniform(1, self.outputs, fan, generator)[0]
        if self.design.sums:
            self._measure_laterals(weight)
            divisor = [common_std(std, [1] * len(widths)) for std in self.lateral_std]
            smaller = [probe.arm == "smaller" for probe in self.probes]
            weights = [weight / d if small else weight for d, small in zip(divisor, smaller, strict=True)]
            return torch.stack(weights), bias.expand(len(self.probes), -1) if bias is not None else None
        # A concatenation: constants, and what an arm changes in the initial weights.
        constants = [affine(p.arm, self.statistics, d) for p, d in zip(self.probes, self.doses, strict=True)]
        self.scale, self.shift = (torch.stack(each).repeat(1, taps) for each in zip(*constants, strict=True))
        self.norms = RunningMoments((fan,))
        weights, offsets = [], []
        for probe, dose in zip(self.probes, self.doses, strict=True):
            taken = [initial(probe.arm, part, self.statistics, dose) for part in weight.chunk(taps, 1)]
            weights.append(torch.cat([each for each, _ in taken], 1))
            offsets.append(sum((offset for _, offset in taken), start=torch.zeros(self.outputs)))
        return torch.stack(weights), None if bias is None else bias + torch.stack(offsets)

    def _make_second(self, drawn: dict[str, Tensor], generator: torch.Generator) -> None:
        """The classifier of what a convolution gives, and that convolution's batch norm."""
        count, width = len(self.probes), self.design.width
        drawn["classifier"] = uniform(NUM_CLASSES, width, width, generator).repeat(count, 1, 1)
        drawn["classifier_bias"] = uniform(1, NUM_CLASSES, width, generator).repeat(count, 1)
        if self.design.norm:
            drawn |= {"gain": torch.ones(count, width), "offset": torch.zeros(count, width)}
            self.inner = RunningMoments((count * width,))

    def _measure_laterals(self, weight: Tensor) -> None:
        """Mean and std (K, n) of each lateral's output with the initial weights, over pixels and channels."""
        widths, sample = self.statistics.widths, self.statistics.sample
        outputs = [x @ w.T for x, w in zip(sample.split(widths, 1), weight.split(widths, 1), strict=True)]
        mean, std = (torch.stack([get(y) for y in outputs]) for get in (torch.mean, torch.std))
        self._set_lateral_affines(self.doses * mean, self.doses * std, self.outputs)

    def _set_lateral_affines(self, mean: Tensor, std: Tensor, width: int) -> None:
        """mean, std: (K, n) of what the equalizers see, each branch `width` wide."""
        widths = self.statistics.widths
        self.lateral_mean, self.lateral_std = mean, std
        affines = [
            branch_affine(probe.arm, m, s, [1] * len(widths))
            for probe, m, s in zip(self.probes, self.lateral_mean, self.lateral_std, strict=True)
        ]
        self.lateral_scale, self.lateral_shift = (torch.stack(each) for each in zip(*affines, strict=True))
        self.norms = RunningMoments((len(widths), len(self.probes), width))

    def forward(self, rows: Tensor, *, training: bool) -> Tensor:
        """rows: (P, taps * C) features -> (P, K, NUM_CLASSES) logits."""
        count, parameters = len(self.probes), self.parameters
        y = self._summed(rows, training) if self.design.sums else self._concatenated(rows, training)
        if not self.design.width:
            return y.view(-1, count, NUM_CLASSES)
        if self.design.norm:
            y = F.batch_norm(
                y, self.inner.mean, self.inner.variance, parameters["gain"].view(-1), parameters["offset"].view(-1),
                training, MOMENTUM, EPS,
            )  # fmt: skip
        hidden = y.relu().view(-1, count, self.outputs).transpose(0, 1)
        classified = torch.baddbmm(
            parameters["classifier_bias"][:, None], hidden, parameters["classifier"].transpose(1, 2)
        )
        return classified.transpose(0, 1)

    def _concatenated(self, rows: Tensor, training: bool) -> Tensor:
        """(P, taps * C) -> (P, K * H), before the norm."""
        scale, shift, taps = self.scale, self.shift, self.design.taps
        if self.is_normed.any():
            mean, variance = self.norms.of(rows, training)
            doses = torch.stack([over_channels(each, self.statistics.widths) for each in self.doses]).repeat(1, taps)
            inverse = doses * (variance * doses.square() + EPS).rsqrt()
            scale = torch.where(self.is_normed, inverse, scale)
            shift = torch.where(self.is_normed, -mean * inverse, shift)
        if self.is_learnt.any():
            factor = torch.where(self.is_learnt, self.parameters["factor"], torch.ones(()))
            scale = scale * torch.repeat_interleave(factor, torch.tensor(self.statistics.widths), 1).repeat(1, taps)
        weight = self.parameters["weight"]
        offset = torch.einsum("khc,kc->kh", weight, shift)
        if "bias" in self.parameters:
            offset = offset + self.parameters["bias"]
        return torch.addmm(offset.flatten(), rows, (weight * scale[:, None]).view(-1, rows.shape[1]).T)

    def _summed(self, rows: Tensor, training: bool) -> Tensor:
        """(P, C) -> (P, K * H): the sum of the laterals' outputs, each as its arm has it."""
        count, widths = len(self.probes), self.statistics.widths
        total = self.parameters["bias"]
        for index, (x, weight) in enumerate(
            zip(rows.split(widths, 1), self.parameters["weight"].split(widths, 2), strict=True)
        ):
            y = (x @ weight.reshape(-1, x.shape[1]).T).view(-1, count, self.outputs) * self.doses[:, index, None]
            total = total + self.equalized_lateral(index, y, training)
        return total.reshape(len(rows), -1)

    def equalized_lateral(self, index: int, y: Tensor, training: bool) -> Tensor:
        """y: (P, K, H), a branch after its lateral -> the same, as each arm has it when it is combined."""
        scale = torch.where(self.is_learnt, self.parameters["factor"], self.lateral_scale)[:, index, None]
        scale, shift = scale.expand(y.shape[1:]), self.lateral_shift[:, index, None].expand(y.shape[1:])
        if self.is_normed.any():
            mean, variance = self.norms.of(y, training, index)
            inverse = (variance + EPS).rsqrt()
            scale = torch.where(self.is_normed, inverse, scale)
            shift = torch.where(self.is_normed, -mean * inverse, shift)
        return y * scale + shift


class RunningMoments:
    """Mean and variance that a batch norm keeps; `shape`: of all that it keeps them for."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.variance = torch.zeros(shape), torch.ones(shape)

    def of(self, x: Tensor, training: bool, index: int | None = None) -> tuple[Tensor, Tensor]:
        """x: (P, ...) -> the batch's, which are kept too; or those that are kept. index: of the first axis."""
        kept = (self.mean, self.variance) if index is None else (self.mean[index], self.variance[index])
        if not training:
            return kept
        mean, variance = x.mean(0), x.var(0, unbiased=False)
        with torch.no_grad():
            kept[0].lerp_(mean, MOMENTUM)
            kept[1].lerp_(variance * (len(x) / (len(x) - 1)), MOMENTUM)
        return mean, variance


def uniform(outputs: int, inputs: int, fan: int, generator: torch.Generator) -> Tensor:
    """(outputs, inputs), as torch draws the weights of a linear layer."""
    return (torch.rand(outputs, inputs, generator=generator) * 2 - 1) / math.sqrt(fan)
