"""Fusion: the one module that fuses features of several scales.

    branch_i = transfer_i( lateral_i(x_i), reference )
    fused    = mix( combine( equalize_1(branch_1), ..., equalize_n(branch_n) ) )

UPerNet's pyramid pooling, the additions of a feature pyramid and the final concatenation of every decoder are Fusions;
statistics, calibration and folding of scale equalizers know this module alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from .checks import refuse_branches, refuse_channels, refuse_inputs, refuse_misfit, refuse_width
from .combine import Affine, WeightedSum, combined_affine
from .controls import make_equalizer
from .equalizer import ScaleEqualizer
from .equalizer_spec import EqualizerSpec
from .initializer import INITIALIZERS, refusal, scale_initial_weights
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

    def __init__(self, channels: int, *, lateral: nn.Module | None = None, transfer: nn.Module | None = None):
        """channels: width of the branch once it is transferred. No lateral: as it is; no transfer: its own size."""
        super().__init__()
        refuse_channels(channels)
        self.channels = channels
        self.lateral = nn.Identity() if lateral is None else lateral
        self.transfer = Keep() if transfer is None else transfer


class Fusion(nn.Module):
    """branches -> one map.

    Args:
        branches: name -> Branch, in the order of combination.
        combine: a module of .combine.
        mix: what consumes the combined map; after a concatenation, a ConvNormAct or a module with its two methods
            `forward(x, input_scale)` and `fold_input_affine(scale, shift)`. None: nothing.
        reference: the branch whose size the others take; default the first.
        equalizer: how to equalize the branches; None: not at all.

    Raises:
        ValueError: branches, combine or equalizer of another kind; widths that the combine or the mix cannot take; an
            unknown reference; an equalizer whose statistics mean nothing, or that has no weights to go to.
    """

    def __init__(
        self,
        branches: Mapping[str, Branch],
        *,
        combine: nn.Module,
        mix: nn.Module | None = None,
        reference: str = "",
        equalizer: EqualizerSpec | None = None,
    ):
        super().__init__()
        refuse_branches(branches, Branch, combine, mix)
        self.reference = reference or next(iter(branches))
        if self.reference not in branches:
            raise ValueError(f"reference branch {self.reference!r} is not one of {', '.join(branches)}")
        if equalizer is not None and not isinstance(equalizer, EqualizerSpec):
            raise ValueError(f"equalizer is {equalizer!r}; give an EqualizerSpec(...), or None for no equalizers")
        self.branches = nn.ModuleDict(branches)
        self.combine: Any = combine
        self.mix: Any = nn.Identity() if mix is None else mix
        self.equalizer_spec = equalizer
        self.equalizers = nn.ModuleDict()
        if equalizer is not None:
            self._refuse_equalizer(equalizer)
            for name, branch in branches.items():
                self.equalizers[name] = make_equalizer(equalizer, branch.channels)
        self.observer: Observer | None = None

    def _refuse_equalizer(self, spec: EqualizerSpec) -> None:
        if self.combine.concatenates and not hasattr(self.mix, "fold_input_affine"):
            raise ValueError(
                f"a scale equalizer before {type(self.mix).__name__} has no weights to go to "
                "(MODEL.SCALE_EQUALIZER.ENABLED, COMBINE 'concat'): mix needs forward(x, input_scale) and "
                "fold_input_affine(scale, shift), as ConvNormAct has; or use another COMBINE"
            )
        if reason := refusal(self):
            raise ValueError(reason)
        if (spec.statistics_of, spec.granularity) != ("source", "channel"):
            return
        for name, branch in self.branches.items():
            transfer = cast(Branch, branch).transfer
            if not transfer.keeps_constants:
                raise ValueError(
                    "MODEL.SCALE_EQUALIZER.STATISTICS_OF 'source' with GRANULARITY 'channel': "
                    f"{type(transfer).__name__}, the transfer of branch {name!r}, makes other channels of its "
                    "source's; use 'upsampled' or 'branch'"
                )

    def forward(self, inputs: Mapping[str, torch.Tensor] | torch.Tensor) -> torch.Tensor:
        """inputs: a map (N, C_i, H_i, W_i) per branch, or one that all share -> (N, C_mix, H, W) of reference size.

        ValueError: inputs that are not those of the branches; a branch of another width than stated.
        """
        refuse_inputs(self, inputs)
        sources = {
            name: cast(Branch, branch).lateral(inputs if isinstance(inputs, torch.Tensor) else inputs[name])
            for name, branch in self.branches.items()
        }
        reference = sources[self.reference]
        maps = [self._equalized_branch(name, source, reference) for name, source in sources.items()]
        if self._implementation != "reparametrize":
            return self.mix(self.combine(maps))
        if self.combine.concatenates:
            scales = torch.cat([equalizer.scale() for equalizer in self.equalizer_of.values()])
            return self.mix(self.combine(maps), scales)
        return self.mix(self.combine(maps, [equalizer.affine() for equalizer in self.equalizer_of.values()]))

    @property
    def equalizer_of(self) -> dict[str, ScaleEqualizer]:
        """Branch -> its equalizer; empty where the branches are not equalized."""
        return cast("dict[str, ScaleEqualizer]", dict(self.equalizers.items()))

    @property
    def no_effect(self) -> str:
        """Why an equalizer's scale changes nothing here; empty where it does."""
        if len(self.branches) == 1:
            return "a single branch is in proportion with itself"
        return getattr(self.mix, "scale_invariant", "")

    @property
    def _implementation(self) -> str:
        return "" if self.equalizer_spec is None else self.equalizer_spec.implementation

    @property
    def _is_initializer(self) -> bool:
        return self._implementation in INITIALIZERS

    def _equalized_branch(self, name: str, source: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """A branch, transferred, and equalized as far as weights or combine do not do it.

        In the weights of a concatenation's mix is 1 / std; then the mean is subtracted, before the transfer where that
        is the same. A sum takes scale and mean as coefficients and an offset; "init" has both in its initial weights.
        """
        branch = cast(Branch, self.branches[name])
        equalizer = self.equalizer_of.get(name)
        scaled = self.combine.concatenates and self._implementation in ("reparametrize", "init_scaled")
        if equalizer is not None and scaled and branch.transfer.keeps_constants:
            centered = equalizer.center(source)
            transferred = branch.transfer(centered, reference)
            refuse_width(name, branch.channels, transferred)
            self._observe(name, centered, transferred, 1.0, equalizer.mean)
            return transferred
        transferred = branch.transfer(source, reference)
        refuse_width(name, branch.channels, transferred)
        self._observe(name, source, transferred)
        if equalizer is not None and scaled:
            return equalizer.center(transferred)
        return equalizer(transferred) if equalizer is not None and self._implementation == "module" else transferred

    def _observe(
        self,
        name: str,
        source: torch.Tensor,
        transferred: torch.Tensor,
        scale: torch.Tensor | float = 1.0,
        offset: torch.Tensor | float = 0.0,
    ) -> None:
        if self.observer is not None:
            self.observer(self, Observation(name, source.detach(), transferred.detach(), scale, offset))

    @torch.no_grad()
    def fold(self) -> None:
        """Move the equalizers into the weights that follow, in place and exactly: mix (concat) or combine (sum).

        ValueError: weights in half precision that cannot hold them.
        """
        if not self.equalizers:
            return
        if not self._is_initializer:
            refuse_misfit(self)
        equalizers = [equalizer.double() for equalizer in self.equalizer_of.values()]
        scales, shifts = [e.scale() for e in equalizers], [e.shift() for e in equalizers]
        if self._implementation == "init_scaled":  # the weights have the scale already
            scales, shifts = [torch.ones_like(s) for s in scales], [t / s for s, t in zip(scales, shifts, strict=True)]
        if self._implementation == "init":
            pass  # the weights have everything
        elif self.combine.concatenates:
            self.mix.fold_input_affine(torch.cat(scales), torch.cat(shifts))
        else:
            own = next((p.dtype for p in self.parameters()), torch.get_default_dtype())
            dtype = torch.promote_types(own, torch.float32)
            weights = self.combine.weights()
            affines = [Affine(s[:, None, None], t[:, None, None]) for s, t in zip(scales, shifts, strict=True)]
            coefficients, offset = combined_affine(None if weights is None else weights.double(), affines)
            self.combine = WeightedSum(torch.stack(coefficients).to(dtype), offset.to(dtype))
        self.equalizers = nn.ModuleDict()
        self.equalizer_spec = None

    def initialize(self) -> None:
        """Put calibrated statistics into the initial weights, where the implementation says so."""
        if self._is_initializer:
            scale_initial_weights(self)

    def reset_equalizers(self) -> None:
        """Back to uncalibrated equalizers, and to the weights from before."""
        if self._is_initializer and all(equalizer.calibrated for equalizer in self.equalizer_of.values()):
            scale_initial_weights(self, undo=True)
        for equalizer in self.equalizer_of.values():
            equalizer.reset()
