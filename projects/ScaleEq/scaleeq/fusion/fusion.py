"""Fusion: the one module that fuses features of several scales.

    branch_i = transfer_i( lateral_i(x_i), reference )
    fused    = mix( combine( equalize_1(branch_1), ..., equalize_n(branch_n) ) )

UPerNet's pyramid pooling, the additions of a feature pyramid and the final concatenation of every decoder are Fusions;
statistics, calibration and folding of scale equalizers know this module alone. It is built without equalizers, which
scaleeq.equalization attaches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.layers import Named
from scaleeq.layers.refusals import refuse_branches, refuse_inputs, refuse_reader

from .branch import Branch, BranchMap, Observation
from .evaluate import EVALUATIONS, small_branches
from .ports import BranchEqualizer, Combine, Mix, NamesConsumer, TakesResized, Transfer

Observer = Callable[["Fusion", Observation], None]


class Equalizers(Named[BranchEqualizer]):
    """Branch -> its equalizer, and what a Fusion asks of them: the identity, until equalization/ attaches others.

    in_the_map: a branch is scaled before, or while, it is combined: not by the weights that read the combination.
    changes_maps: a branch may be another map when it is combined than when it was transferred.
    exchangeable: `after` may be exchanged with a resize, which keeps constants.
    by_the_mix: `mixed_resized` does what `before` and `after` do elsewhere.
    """

    in_the_map = False
    changes_maps = False
    exchangeable = True
    by_the_mix = False

    def before(self, name: str, transfer: Transfer, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """source: (N, C, h, w) -> what is transferred, and the mean that was taken out of it."""
        return source, 0.0

    def after(self, name: str, transfer: Transfer, transferred: torch.Tensor) -> torch.Tensor:
        """transferred: (N, C, H, W) -> the branch as it is combined."""
        return transferred

    def fuse(self, combine: Combine, mix: Mix, branches: Sequence[BranchMap]) -> torch.Tensor:
        """branches: in the order of combination -> (N, C_mix, H, W)."""
        if combine.concatenates and any(branch.small for branch in branches):
            assert isinstance(mix, TakesResized)
            return self.mixed_resized(mix, branches)
        return self.mixed(mix, combine([branch.summand() for branch in branches]))

    def mixed(self, mix: Mix, combined: torch.Tensor) -> torch.Tensor:
        """combined: (N, C, H, W) -> (N, C_mix, H, W)."""
        return mix(combined)

    def mixed_resized(self, mix: TakesResized, branches: Sequence[BranchMap]) -> torch.Tensor:
        """`mixed` of the concatenation of branches of which some are small -> (N, C_mix, H, W)."""
        return mix.forward_resized([branch.resized() for branch in branches], branches[0].size)

    def weight_scales(self) -> torch.Tensor | None:
        """(C,) of a concatenation, what the weights that read it are multiplied with; None: they are as they are."""
        return None

    def initialize(self, fusion: Fusion) -> None:
        """Put calibrated statistics into the initial weights, where that is the implementation."""

    def reset(self, fusion: Fusion) -> None:
        """Back to uncalibrated equalizers, and to the weights from before."""

    def fold(self, fusion: Fusion) -> None:
        """Move what is left of them into the weights that follow, in place and exactly."""


class Fusion(nn.Module):
    """branches -> one map.

    Args:
        branches: name -> Branch, in the order of combination.
        combine: a module of .combine.
        mix: what consumes the combined map; equalizers before a concatenation need one that ports.HoldsScales, as
            ConvNormAct does. None: nothing.
        reference: the branch whose size the others take; default the first.

    Raises:
        ValueError: branches or combine of another kind; widths that the combine or the mix cannot take; an unknown
            reference.
    """

    combine: Combine
    mix: Mix
    per_branch = True  # whether it may be evaluated so; see evaluate_fusions

    def __init__(
        self, branches: Mapping[str, Branch], *, combine: Combine, mix: Mix | None = None, reference: str = ""
    ):
        super().__init__()
        refuse_branches(branches, Branch)
        if not isinstance(combine, Combine):
            raise ValueError(f"combine is {combine!r}; give a module such as Concat(), or make_combine('concat')")
        self.reference = reference or next(iter(branches))
        if self.reference not in branches:
            raise ValueError(f"reference branch {self.reference!r} is not one of {', '.join(branches)}")
        self.branches: Named[Branch] = Named(branches)
        self.combine = combine
        self.mix = nn.Identity() if mix is None else mix
        self.equalizers = Equalizers()
        self.observer: Observer | None = None
        refuse_reader(self.widths, self.consumer)

    def forward(self, inputs: Mapping[str, torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """inputs: a map (N, C_i, H_i, W_i) per branch, or one that all share -> (N, C_mix, H, W) of reference size.

        ValueError: inputs that are not those of the branches; a branch of another width than stated.
        """
        refuse_inputs(self.widths, inputs, adds="" if self.combine.concatenates else type(self.combine).__name__)
        return self.equalizers.fuse(self.combine, self.mix, self.branch_maps(inputs))

    def branch_maps(self, inputs: Mapping[str, torch.Tensor] | torch.Tensor) -> list[BranchMap]:
        """The branches of a forward, after their laterals, and shown to the observer."""
        sources = {
            name: branch.lateral(inputs if isinstance(inputs, torch.Tensor) else inputs[name])
            for name, branch in self.branches.items()
        }
        reference, equalizers = sources[self.reference], self.equalizers
        small: frozenset[str] = frozenset()
        if self.per_branch and equalizers.exchangeable:
            small = small_branches(self.combine, self.mix, self.branches, sources, reference, equalizers.in_the_map)
        # What the mix does itself is not done before it, too.
        at_the_map = Equalizers() if small and self.combine.concatenates and equalizers.by_the_mix else equalizers
        before, after = at_the_map.before, at_the_map.after
        maps = [
            BranchMap(name, self.branches[name], x, reference, before=before, after=after, small=name in small)
            for name, x in sources.items()
        ]
        if self.observer is not None:
            for each in maps:
                self.observer(self, each.observation())
                each.resized()  # before the next branch, so that gradients add up in the order of an unseen forward
        return maps

    @property
    def widths(self) -> dict[str, int]:
        """Branch -> channels."""
        return {name: branch.channels for name, branch in self.branches.items()}

    @property
    def equalizer_of(self) -> dict[str, BranchEqualizer]:
        """Branch -> its equalizer; empty where the branches are not equalized."""
        return dict(self.equalizers.items())

    @property
    def consumer(self) -> nn.Conv2d | None:
        """The convolution whose weights have a part for each branch; None where there is none."""
        return self.mix.consumer if self.combine.concatenates and isinstance(self.mix, NamesConsumer) else None

    @property
    def no_effect(self) -> str:
        """Why an equalizer's scale changes nothing here; empty where it does."""
        if len(self.branches) == 1:
            return "a single branch is in proportion with itself"
        return getattr(self.mix, "scale_invariant", "")

    @torch.no_grad()
    def fold(self) -> None:
        """Move the equalizers into the weights that follow, in place and exactly: mix (concat) or combine (sum).

        ValueError: weights in half precision that cannot hold them.
        """
        self.equalizers.fold(self)
        self.equalizers = Equalizers()

    def initialize(self) -> None:
        """Put calibrated statistics into the initial weights, where the implementation says so."""
        self.equalizers.initialize(self)

    def reset_equalizers(self) -> None:
        """Back to uncalibrated equalizers, and to the weights from before."""
        self.equalizers.reset(self)


def evaluate_fusions(model: nn.Module, how: str) -> None:
    """Have every Fusion of a built model evaluated in one of EVALUATIONS, in place.

    "plain" gives the numbers, to the last digit, that a model had before there was another way.
    """
    per_branch = one_of(how, EVALUATIONS, key="MODEL.FUSION.EVALUATE") != "plain"
    for module in model.modules():
        if isinstance(module, Fusion):
            module.per_branch = per_branch
