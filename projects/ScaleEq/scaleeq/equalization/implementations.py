"""Where the equalizers of a Fusion act: a class for each MODEL.SCALE_EQUALIZER.IMPLEMENTATION.

    "module"         EqualizeMaps            every branch is (b - mean) / std when it is combined
    "reparametrize"  EqualizeByMix           before a concatenation: 1 / std is in the weights that the mix uses
                     EqualizeByCombine       before a sum: scales and means are its coefficients and one offset
    "init"           EqualizeInitially       the paper's auxiliary initializer: statistics go into the initial weights
    "init_scaled"    EqualizeTrainedWeights  the same weights, trained as those of "module" are (see .optimizer_steps)

What a weight cannot take is refused when equalizers are attached: a plain sum has no weight per branch. "init" leaves
the mean to a bias where the convolution has one (inexact at a zero-padded border, as the paper's formula is); without
one the norm after it removes a constant per channel, if it is a batch norm. In a softmax or fast-normalized sum it
scales the branches' weights; the common factor and the means are left to the norm after the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

from scaleeq.fusion import Equalizers, FastNormalizedSum, Fusion, SoftmaxSum, WeightedSum
from scaleeq.fusion.branch import BranchMap
from scaleeq.fusion.ports import Combine, HoldsScales, Mix, NamesConsumer, Summing, TakesResized, Transfer
from scaleeq.layers import per_weight
from scaleeq.ops.weighted_sum import Affine

from .equalizer import BranchStatistics, ScaleEqualizer
from .precision import refuse_misfit
from .spec import EqualizerSpec


class Attached(Equalizers):
    """The equalizers that a spec describes: what all implementations have.

    in_weights: weights that half precision may not hold take the scales.
    initializes: calibration changes the initial weights.
    """

    in_weights = True
    initializes = False

    def __init__(self, spec: EqualizerSpec, modules: Mapping[str, BranchStatistics]):
        super().__init__(modules)
        self.spec = spec

    def refusal(self, fusion: Fusion) -> str:
        """Why a fusion has no place for them; empty where it has one."""
        return ""

    def fold(self, fusion: Fusion) -> None:
        """Scales and shifts go into the mix of a concatenation, or make a sum a weighted one; computed in float64."""
        refuse_misfit(fusion)
        self.double()
        if fusion.combine.concatenates:
            assert isinstance(fusion.mix, HoldsScales)
            fusion.mix.fold_input_affine(self.scales(), self.shifts())
            return
        assert isinstance(fusion.combine, Summing)
        # A sum: its weights times the scales, and one offset.
        own = next((p.dtype for p in fusion.parameters()), torch.get_default_dtype())
        dtype = torch.promote_types(own, torch.float32)
        coefficients, offset = fusion.combine.combined(self.affines())
        fusion.combine = WeightedSum(torch.stack(coefficients).to(dtype), offset.to(dtype))

    def reset(self, fusion: Fusion) -> None:
        for equalizer in self.values():
            equalizer.reset()

    def scales(self) -> torch.Tensor:
        """(C,) of the concatenation, 1 / std."""
        return torch.cat([equalizer.scale() for equalizer in self.values()])

    def shifts(self) -> torch.Tensor:
        """(C,) of the concatenation, -mean / std."""
        return torch.cat([equalizer.shift() for equalizer in self.values()])

    def affines(self) -> list[Affine]:
        """Scale and shift of each branch, (C, 1, 1)."""
        return [Affine(e.scale()[:, None, None], e.shift()[:, None, None]) for e in self.values()]

    def equalizer(self, name: str) -> ScaleEqualizer:
        """The equalizer of a branch, of an implementation that no control is for."""
        return cast(ScaleEqualizer, self[name])


class EqualizeMaps(Attached):
    """The branches themselves are equalized, or changed as a control says."""

    in_the_map = changes_maps = True
    in_weights = False

    @property
    def exchangeable(self) -> bool:  # type: ignore[override]
        return all(cast(BranchStatistics, module).exchangeable for module in self.values())

    def after(self, name: str, transfer: Transfer, transferred: torch.Tensor) -> torch.Tensor:
        return self[name](transferred)


class Centered(Attached):
    """The mean is subtracted from the branch; before its transfer, where that is the same and cheaper."""

    by_the_mix = True  # no map of full size is made for them

    @property
    def changes_maps(self) -> bool:  # type: ignore[override]
        return self.spec.centers

    def before(self, name: str, transfer: Transfer, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        if not (self.changes_maps and transfer.keeps_constants):
            return source, 0.0
        equalizer = self.equalizer(name)
        return equalizer.center(source), equalizer.mean

    def after(self, name: str, transfer: Transfer, transferred: torch.Tensor) -> torch.Tensor:
        return transferred if transfer.keeps_constants else self.equalizer(name).center(transferred)

    def mixed_resized(self, mix: TakesResized, branches: Sequence[BranchMap]) -> torch.Tensor:
        """A small branch is equalized itself; the weights take a large one's scale, and what they make of its mean."""
        maps, scales, shifts = [], [], []
        for branch in branches:
            equalizer, given = self.equalizer(branch.name), branch.resized()
            scale, shift = (None, None) if branch.small else self.affine(equalizer)
            maps.append(given._replace(x=self.equalized(equalizer, given.x)) if branch.small else given)
            scales.append(scale)
            shifts.append(shift if self.changes_maps else None)
        return mix.forward_resized(maps, branches[0].size, scales, shifts)

    def equalized(self, equalizer: ScaleEqualizer, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, h, w), a small branch -> what the weights read."""
        return equalizer.center(x)

    def affine(self, equalizer: ScaleEqualizer) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The same of a large branch, as scale and shift, (C,); None: a scale of 1."""
        return None, -equalizer.mean.reshape(-1).expand(equalizer.channels)


class EqualizeByMix(Centered):
    """Weights divided by the std are used, and never stored."""

    def weight_scales(self) -> torch.Tensor:
        return self.scales()

    def mixed(self, mix: Mix, combined: torch.Tensor) -> torch.Tensor:
        return mix(combined, self.scales())

    def equalized(self, equalizer: ScaleEqualizer, x: torch.Tensor) -> torch.Tensor:
        return equalizer(x)

    def affine(self, equalizer: ScaleEqualizer) -> tuple[torch.Tensor | None, torch.Tensor]:
        return equalizer.scale(), equalizer.shift()


class EqualizeByCombine(Attached):
    """No pass over the maps of its own."""

    in_the_map = True

    def fuse(self, combine: Combine, mix: Mix, branches: Sequence[BranchMap]) -> torch.Tensor:
        affines = [self.equalizer(branch.name).affine() for branch in branches]
        return mix(combine([branch.summand() for branch in branches], affines))


class EqualizeInitially(Attached):
    """Statistics go into the initial weights once; the fusion then runs as if it had no equalizers."""

    initializes = True

    def refusal(self, fusion: Fusion) -> str:
        if not fusion.combine.concatenates:
            if not isinstance(fusion.combine, (SoftmaxSum, FastNormalizedSum)):
                return no_weights(fusion)
            return "a weighted sum has one weight per branch; use GRANULARITY 'branch'" if self.spec.per_channel else ""
        if not isinstance(fusion.mix, NamesConsumer):
            return no_consumer(fusion)
        # Where the mean goes.
        norm = getattr(fusion.mix, "norm", None)
        removes_constants = isinstance(norm, (nn.modules.batchnorm._BatchNorm, nn.InstanceNorm2d))
        if self.spec.centers and fusion.mix.consumer.bias is None and not removes_constants:
            return (
                f"the convolution has no bias to take the mean, and {type(norm).__name__} after it does not "
                "remove a constant per channel; use STATISTIC 'rms', which has no mean"
            )
        return ""

    def initialize(self, fusion: Fusion) -> None:
        self._scale_weights(fusion, undo=False)

    def fold(self, fusion: Fusion) -> None:
        """Nothing: all is in the weights."""

    def reset(self, fusion: Fusion) -> None:
        """The scaling is undone, as far as training has not changed what that means."""
        if all(equalizer.calibrated for equalizer in self.values()):
            self._scale_weights(fusion, undo=True)
        super().reset(fusion)

    @torch.no_grad()
    def _scale_weights(self, fusion: Fusion, *, undo: bool) -> None:
        stds = [equalizer.std for equalizer in self.values()]
        if isinstance(fusion.combine, SoftmaxSum):
            shift = torch.stack([std.log() for std in stds])
            fusion.combine.logits.sub_(-shift if undo else shift)
        elif isinstance(fusion.combine, FastNormalizedSum):
            factors = torch.stack(stds)
            fusion.combine.raw_weights.mul_(factors if undo else factors.reciprocal())
        else:
            conv = consumer_of(fusion)
            if undo:
                self._shift_bias(conv, sign=1.0)
                conv.weight.div_(weight_scale(fusion))
            else:
                conv.weight.mul_(weight_scale(fusion))
                self._shift_bias(conv, sign=-1.0)

    def _shift_bias(self, conv: nn.Conv2d, *, sign: float) -> None:
        """Add sign * (sum over inputs and taps of weight * mean) to the bias, where there is one."""
        if conv.bias is not None:
            means = [equalizer.mean.reshape(-1).expand(equalizer.channels) for equalizer in self.values()]
            conv.bias.add_(sign * (conv.weight * per_weight(conv, torch.cat(means))).sum((1, 2, 3)))


class EqualizeTrainedWeights(Centered, EqualizeInitially):
    """A weight w = v / std that takes the steps of v; the mean is subtracted from the branch, until the fold."""

    def refusal(self, fusion: Fusion) -> str:
        if not fusion.combine.concatenates:
            return no_weights(fusion)
        return "" if isinstance(fusion.mix, NamesConsumer) else no_consumer(fusion)

    def _shift_bias(self, conv: nn.Conv2d, *, sign: float) -> None:
        """Nothing: the mean is not in the weights."""

    def fold(self, fusion: Fusion) -> None:
        assert isinstance(fusion.mix, HoldsScales)
        self.double()
        scales = self.scales()  # the weights have these already
        fusion.mix.fold_input_affine(torch.ones_like(scales), self.shifts() / scales)


def implementation(spec: EqualizerSpec, combine: Combine, modules: Mapping[str, BranchStatistics]) -> Attached:
    """The class of a spec's IMPLEMENTATION, with the module of every branch."""
    classes: dict[str, type[Attached]] = {
        "module": EqualizeMaps,
        "reparametrize": EqualizeByMix if combine.concatenates else EqualizeByCombine,
        "init": EqualizeInitially,
        "init_scaled": EqualizeTrainedWeights,
    }
    return classes[spec.implementation](spec, modules)


def attached(fusion: Fusion) -> Attached:
    """The equalizers of a fusion that has some."""
    assert isinstance(fusion.equalizers, Attached)
    return fusion.equalizers


def consumer_of(fusion: Fusion) -> nn.Conv2d:
    """The convolution that reads the concatenation of a fusion that was not refused for the lack of one."""
    conv = fusion.consumer
    assert conv is not None
    return conv


def weight_scale(fusion: Fusion) -> torch.Tensor:
    """1 / std, shaped to multiply the consumer's weights with; in float32 at least, as the products are."""
    return per_weight(consumer_of(fusion), attached(fusion).scales())


def no_weights(fusion: Fusion) -> str:
    return f"{type(fusion.combine).__name__} has no weights whose training could follow the initial scale"


def no_consumer(fusion: Fusion) -> str:
    return f"{type(fusion.mix).__name__} does not name the convolution that reads the concatenation"
