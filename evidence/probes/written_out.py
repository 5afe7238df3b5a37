"""The same fusions as modules, each trained alone by torch's optimizers: what the side-by-side trainer is checked with.

A fusion is the project's own Fusion, with equalizers, controls and initializer of scaleeq.equalization, whose
statistics are set to those that the side-by-side trainer uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleeq.equalization import EqualizerSpec, equalize_fusions
from scaleeq.equalization.controls import control_statistics
from scaleeq.equalization.equalizer import BranchStatistics
from scaleeq.fusion import Branch, Concat, Fusion, Sum
from scaleeq.layers import ConvNormAct, batch_norm

from .arms import Statistics, common_std
from .features import NUM_CLASSES, Features
from .side_by_side import WIDTH, Design, Fusions, Probe
from .training import BETAS, DECAY, EPS, MOMENTUM, POWER, Batches
from .upernet_like import make_fusions

SPECS = {
    "equalized": EqualizerSpec(implementation="module"),
    "init": EqualizerSpec(implementation="init"),
    "channel": EqualizerSpec(implementation="module", granularity="channel"),
    **{
        arm: EqualizerSpec(implementation="module", control=arm)
        for arm in ("batch_norm", "learnable", "common", "permuted")
    },
}


UNKNOWN = {"sum": ("init", "channel"), "upernet": ("channel",)}  # design -> arms that it has not


class BiasedReLU(nn.Module):
    """What follows the sum: one bias a channel, and a ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return (x + self.bias.view(-1, 1, 1)).relu()


class WrittenOut(nn.Module):
    """A Fusion and a classifier. design: one without taps; the initial weights are those of `fusions`, arm "off"."""

    def __init__(self, design: Design, probe: Probe, fusions: Fusions) -> None:
        super().__init__()
        statistics = fusions.statistics
        self.widths, self.dose = statistics.widths, probe.doses(len(statistics.widths))
        drawn = {name: value[0].detach().clone() for name, value in fusions.parameters.items()}
        if design.sums:
            self.fusion = self._summing(drawn, fusions.outputs)
        elif design.laterals:
            self.fusion = self._with_laterals(drawn, fusions.outputs)
        else:
            norm = batch_norm if design.norm else None
            mix = ConvNormAct(sum(self.widths), fusions.outputs, norm=norm, activation=bool(design.width))
            mix.conv.weight.data = drawn["weight"][:, :, None, None]
            if mix.conv.bias is not None:
                mix.conv.bias.data = drawn["bias"]
            branches = {f"b{i}": Branch(width) for i, width in enumerate(self.widths)}
            self.fusion = Fusion(branches, combine=Concat(), mix=mix)
        self.classifier: nn.Module = nn.Identity()
        if design.width:
            classifier = nn.Conv2d(design.width, NUM_CLASSES, 1)
            classifier.weight.data = drawn["classifier"][:, :, None, None]
            assert classifier.bias is not None
            classifier.bias.data = drawn["classifier_bias"]
            self.classifier = classifier
        mean, std = statistics.mean * self.dose, statistics.std * self.dose
        if design.sums or design.laterals:
            mean, std = fusions.lateral_mean[0], fusions.lateral_std[0]
        if design.sums:
            mean, std = mean * self.dose, std * self.dose
        self._equalize(probe.arm, mean, std, statistics, design)

    def _summing(self, drawn: dict[str, Tensor], outputs: int) -> Fusion:
        branches = {}
        for index, weight in enumerate(drawn["weight"].split(self.widths, 1)):
            lateral = nn.Conv2d(weight.shape[1], outputs, 1, bias=False)
            lateral.weight.data = weight[:, :, None, None].clone()
            branches[f"b{index}"] = Branch(outputs, lateral=lateral)
        mix = BiasedReLU(outputs)
        mix.bias.data = drawn["bias"]
        return Fusion(branches, combine=Sum(), mix=mix)

    def _with_laterals(self, drawn: dict[str, Tensor], outputs: int) -> Fusion:
        branches = {}
        for index, weight in enumerate(drawn["weight"].split(self.widths, 1)):
            lateral = ConvNormAct(weight.shape[1], WIDTH)
            lateral.conv.weight.data = weight[:, :, None, None].clone()
            branches[f"b{index}"] = Branch(WIDTH, lateral=lateral)
        mix = ConvNormAct(len(branches) * WIDTH, outputs)
        mix.conv.weight.data = drawn["mix"][:, :, None, None]
        return Fusion(branches, combine=Concat(), mix=mix)

    def _equalize(self, arm: str, mean: Tensor, std: Tensor, statistics: Statistics, design: Design) -> None:
        if arm == "smaller":
            divisor = common_std(std, [1] * len(std) if design.sums or design.laterals else self.widths)
            for module in (self.fusion.get_submodule("mix") if design.laterals else self.fusion).modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.data /= divisor
        if arm not in SPECS:
            return
        equalize_fusions(self.fusion, SPECS[arm])
        equalizers: Sequence[BranchStatistics] = list(self.fusion.equalizer_of.values())  # type: ignore[arg-type]
        channels = [each.split(self.widths) for each in (statistics.channel_mean, statistics.channel_std)]
        for index, equalizer in enumerate(equalizers):
            numbers = mean[index], std[index]
            if equalizer.per_channel:
                numbers = channels[0][index] * self.dose[index], channels[1][index] * self.dose[index]
            equalizer.set_statistics(*numbers, 1)
        control_statistics(self.fusion)
        self.fusion.initialize()

    def forward(self, rows: Tensor) -> Tensor:
        """rows: (P, C) -> (P, NUM_CLASSES)."""
        maps = (
            part.T[None, :, :, None] * dose for part, dose in zip(rows.split(self.widths, 1), self.dose, strict=True)
        )
        fused = self.fusion({f"b{index}": each for index, each in enumerate(maps)})
        return self.classifier(fused)[0, :, :, 0].T


def losses_alone(
    design: Design,
    probe: Probe,
    *,
    optimizer: str,
    steps: int,
    seed: int,
    features: Features,
    images: Sequence[int],
    statistics: Statistics,
) -> list[float]:
    """The loss of every step of one fusion that is trained as a module."""
    off = make_fusions(design, [Probe("off", probe.rate)], statistics, seed)
    model = WrittenOut(design, probe, off).train()
    weights = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    others = [p for p in model.parameters() if all(p is not weight for weight in weights)]
    groups = [{"params": weights, "weight_decay": DECAY[optimizer]}, {"params": others, "weight_decay": 0.0}]
    solver: torch.optim.Optimizer = torch.optim.AdamW(groups, probe.rate, BETAS, EPS)
    if optimizer == "SGD":
        solver = torch.optim.SGD(groups, probe.rate, MOMENTUM)
    batches, losses = Batches(features, images, seed), []
    for step in range(steps):
        for group in solver.param_groups:
            group["lr"] = probe.rate * (1 - step / steps) ** POWER
        rows, targets = batches.next()
        loss = F.cross_entropy(model(rows), targets)
        solver.zero_grad()
        loss.backward()
        solver.step()
        losses.append(loss.item())
    return losses
