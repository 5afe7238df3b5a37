"""Fusion: the one module that fuses features of several scales.

    branch_i = transfer_i( lateral_i(x_i), reference )
    fused    = mix( combine( equalize_1(branch_1), ..., equalize_n(branch_n) ) )

UPerNet's pyramid pooling, the additions of a feature pyramid and the final concatenation of every decoder are Fusions;
statistics, calibration and folding of scale equalizers know this module alone. It is built without equalizers, which
scaleeq.equalization attaches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.ops import resize
from scaleeq.ops.resized_conv import ResizedMap

from .checks import refuse_branches, refuse_channels, refuse_inputs, refuse_width
from .evaluate import EVALUATIONS, small_branches
from .ports import (
    BranchEqualizer,
    Combine,
    EndsWithResize,
    Lateral,
    Mix,
    Named,
    NamesConsumer,
    TakesResized,
    Transfer,
)
from .transfers import Keep


@dataclass(frozen=True)
class Observation:
    """One branch of one forward, as an observer sees it.

    `source` and `transferred` are (N, C, h, w) before and (N, C, H, W) after the transfer. Where an equalizer acts
    before the transfer, they are what it left: the branch itself is map * scale + offset.
    """

    branch: str
    source: torch.Tensor
    transferred: torch.Tensor
    scale: torch.Tensor | float = 1.0
    offset: torch.Tensor | float = 0.0


Observer = Callable[["Fusion", Observation], None]


class Branch(nn.Module):
    """What one input passes through before it is combined: lateral (channels first), then transfer (size)."""

    lateral: Lateral
    transfer: Transfer

    def __init__(self, channels: int, *, lateral: Lateral | None = None, transfer: Transfer | None = None):
        """channels: width of the branch once it is transferred. No lateral: as it is; no transfer: its own size."""
        super().__init__()
        refuse_channels(channels)
        self.channels = channels
        self.lateral = nn.Identity() if lateral is None else lateral
        self.transfer = Keep() if transfer is None else transfer


class BranchMap:
    """A branch in one forward, after its lateral; each of its maps is computed on demand, and once.

    The transferred map is let go once the equalized one is there: a large forward would hold both of every branch.
    A branch that is small is combined before its resize; its transferred map is made for an observer alone.
    """

    def __init__(self, fusion: Fusion, name: str, source: torch.Tensor, reference: torch.Tensor, small: bool = False):
        """source: (N, C, h, w); reference: (N, C', H, W)."""
        self.small = small
        self._shrunk: torch.Tensor | None = None
        self._resized: ResizedMap | None = None
        self.name, self.fusion, self.branch = name, fusion, fusion.branches[name]
        self._lateral, self.reference = source, reference
        self._before: tuple[torch.Tensor, torch.Tensor | float] | None = None
        self._transferred: torch.Tensor | None = None
        self._equalized: torch.Tensor | None = None

    @property
    def source(self) -> torch.Tensor:
        """(N, C, h, w), what is transferred."""
        return self._prepared()[0]

    def transferred(self) -> torch.Tensor:
        """(N, C, H, W). ValueError for other channels than stated."""
        if self._transferred is None and self.small:
            self._transferred = resize(self._before_resize().detach(), self.size, self._resizing.mode)
        elif self._transferred is None:
            self._transferred = self.branch.transfer(self.source, self.reference)
            refuse_width(self.name, self.branch.channels, self._transferred)
        return self._transferred

    def equalized(self) -> torch.Tensor:
        """(N, C, H, W), the branch as it is combined."""
        if self._equalized is None:
            self._equalized = self.fusion.equalizers.after(self.name, self.branch.transfer, self.transferred())
            self._transferred = None  # whoever asks from now on has it computed again
        return self._equalized

    def resized(self) -> ResizedMap:
        """The branch as it is combined, before its resize where it is small."""
        if not self.small:
            return ResizedMap(self.equalized())
        if self._resized is None:
            x = self.fusion.equalizers.after(self.name, self.branch.transfer, self._before_resize())
            self._resized = ResizedMap(x, self._resizing.mode)
            self._shrunk = self._transferred = None
        return self._resized

    @property
    def size(self) -> tuple[int, int]:
        """(H, W), of the reference."""
        return self.reference.shape[-2], self.reference.shape[-1]

    @property
    def _resizing(self) -> EndsWithResize:
        assert isinstance(self.branch.transfer, EndsWithResize)
        return self.branch.transfer

    def _before_resize(self) -> torch.Tensor:
        """(N, C, h, w); once, because a gate may have a batch norm."""
        if self._shrunk is None:
            self._shrunk = self._resizing.before_resize(self.source)
            refuse_width(self.name, self.branch.channels, self._shrunk)
        return self._shrunk

    def observation(self) -> Observation:
        """What an observer sees; `equalized` comes later, because the observer may set the statistics for it."""
        return Observation(self.name, self.source.detach(), self.transferred().detach(), offset=self._prepared()[1])

    def _prepared(self) -> tuple[torch.Tensor, torch.Tensor | float]:
        if self._before is None:
            self._before = self.fusion.equalizers.before(self.name, self.branch.transfer, self._lateral)
        return self._before


class Equalizers(Named[BranchEqualizer]):
    """Branch -> its equalizer, and what a Fusion asks of them; this class is the identity, without any.

    Its implementations are above, in equalization/: what a branch is when it is combined, and what consumes the
    combination, is for them to say.

    in_the_map: a branch is scaled before, or while, it is combined: not by the weights that read the combination.
    changes_maps: a branch may be another map when it is combined than when it was transferred.
    exchangeable: `after` may be exchanged with a resize, which keeps constants.
    """

    in_the_map = False
    changes_maps = False
    exchangeable = True

    def before(self, name: str, transfer: Transfer, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """source: (N, C, h, w) -> what is transferred, and the mean that was taken out of it."""
        return source, 0.0

    def after(self, name: str, transfer: Transfer, transferred: torch.Tensor) -> torch.Tensor:
        """transferred: (N, C, H, W) -> the branch as it is combined."""
        return transferred

    def fuse(self, combine: Combine, mix: Mix, branches: Sequence[BranchMap]) -> torch.Tensor:
        """branches: in the order of combination -> (N, C_mix, H, W)."""
        if any(branch.small for branch in branches):
            assert isinstance(mix, TakesResized)
            return self.mixed_resized(mix, branches)
        return self.mixed(mix, combine([branch.equalized() for branch in branches]))

    def mixed(self, mix: Mix, combined: torch.Tensor) -> torch.Tensor:
        """combined: (N, C, H, W) -> (N, C_mix, H, W)."""
        return mix(combined)

    def mixed_resized(self, mix: TakesResized, branches: Sequence[BranchMap]) -> torch.Tensor:
        """`mixed` of the concatenation of branches of which some are small -> (N, C_mix, H, W)."""
        return mix.forward_resized([branch.resized() for branch in branches], branches[0].size)

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
        refuse_branches(branches, Branch, combine, mix)
        self.reference = reference or next(iter(branches))
        if self.reference not in branches:
            raise ValueError(f"reference branch {self.reference!r} is not one of {', '.join(branches)}")
        self.branches: Named[Branch] = Named(branches)
        self.combine = combine
        self.mix = nn.Identity() if mix is None else mix
        self.equalizers = Equalizers()
        self.observer: Observer | None = None

    def forward(self, inputs: Mapping[str, torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """inputs: a map (N, C_i, H_i, W_i) per branch, or one that all share -> (N, C_mix, H, W) of reference size.

        ValueError: inputs that are not those of the branches; a branch of another width than stated.
        """
        refuse_inputs(self.widths, self.combine, inputs)
        return self.equalizers.fuse(self.combine, self.mix, self.branch_maps(inputs))

    def branch_maps(self, inputs: Mapping[str, torch.Tensor] | torch.Tensor) -> list[BranchMap]:
        """The branches of a forward, after their laterals, and shown to the observer."""
        sources = {
            name: branch.lateral(inputs if isinstance(inputs, torch.Tensor) else inputs[name])
            for name, branch in self.branches.items()
        }
        reference, small = sources[self.reference], frozenset[str]()
        if self.per_branch and self.equalizers.exchangeable:
            transfers = {name: branch.transfer for name, branch in self.branches.items()}
            small = small_branches(self.combine, self.mix, transfers, sources, reference)
        maps = [BranchMap(self, name, source, reference, name in small) for name, source in sources.items()]
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
