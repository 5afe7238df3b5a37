"""What the parts of a Fusion offer it: a new lateral, transfer, combine or mix is a module with these methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from scaleeq.ops.resized_conv import ResizedMap
from scaleeq.ops.weighted_sum import Affine, Summand

PerMap = Sequence[torch.Tensor | None]  # (C_i,) of the i-th map; None: it is as it is


class Lateral(Protocol):
    def __call__(self, x: torch.Tensor, /) -> torch.Tensor:
        """x: (N, C_in, h, w) -> (N, C, h, w)."""


class Transfer(Protocol):
    """keeps_constants: it may be exchanged with x -> (x - mean) / std, so that this may be done before it."""

    keeps_constants: bool

    def __call__(self, x: torch.Tensor, reference: torch.Tensor, /) -> torch.Tensor:
        """x: (N, C, h, w); reference: (N, C', H, W) -> (N, C, H, W)."""


@runtime_checkable
class EndsWithResize(Transfer, Protocol):
    """A transfer whose last step is an interpolation: resize(before_resize(x), size of the reference, mode)."""

    mode: str

    def before_resize(self, x: torch.Tensor, /) -> torch.Tensor:
        """x: (N, C, h, w) -> (N, C, h, w)."""


@runtime_checkable
class Combine(Protocol):
    """concatenates: each branch keeps its channels; otherwise it is a sum, whose coefficients can take affine maps."""

    concatenates: bool

    def __call__(self, branches: Sequence[Summand], affines: Sequence[Affine] | None = None, /) -> torch.Tensor:
        """branches: n maps (N, C_i, H, W), see SumsResized; affines: of a sum, done to each first -> (N, C, H, W)."""


@runtime_checkable
class Summing(Combine, Protocol):
    def weights(self) -> torch.Tensor | None:
        """(n,) or (n, C, 1, 1), the coefficients of the branches; None: all 1."""

    def combined(self, affines: Sequence[Affine], /) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Coefficients, () or (C, 1, 1) each, and offset of the branches once these are applied to them first."""


@runtime_checkable
class SumsResized(Summing, Protocol):
    """A sum whose call takes ResizedMaps, too."""

    def takes_resized(self, scaled: bool, /) -> bool:
        """Whether it does, and whether that pays; scaled: equalizers change the branches."""


class Mix(Protocol):
    def __call__(self, x: torch.Tensor, input_scale: torch.Tensor | None = None, /) -> torch.Tensor:
        """x: (N, C, H, W); input_scale: (C,), of a mix that HoldsScales alone -> (N, C_mix, H, W)."""


@runtime_checkable
class TakesResized(Mix, Protocol):
    """A mix of a concatenation that can evaluate each branch before it is resized."""

    def takes_resized(self, widths: Sequence[int], /) -> bool:
        """Whether it can, and whether that pays, with branches of these channels that are small."""

    def forward_resized(
        self, maps: Sequence[ResizedMap], size: tuple[int, int], scales: PerMap = (), shifts: PerMap = (), /
    ) -> torch.Tensor:
        """Its result for the concatenation of each map * scale + shift, resized to `size`; both (C_i,), or None."""


@runtime_checkable
class HoldsScales(Mix, Protocol):
    """A mix of a concatenation whose weights can take what equalizers do."""

    def fold_input_affine(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        """Make it compute what it did on `x * scale + shift`, each (C,), in place and exactly."""


@runtime_checkable
class NamesConsumer(HoldsScales, Protocol):
    """A mix that names the convolution that reads the concatenation."""

    @property
    def consumer(self) -> nn.Conv2d: ...


class BranchEqualizer(Protocol):
    """What is kept of one branch: mean and std, () or (C, 1, 1), and of how many images they are."""

    channels: int
    mean: torch.Tensor
    std: torch.Tensor
    num_images: torch.Tensor

    @property
    def calibrated(self) -> bool: ...
    def __call__(self, x: torch.Tensor, /) -> torch.Tensor: ...
    def scale(self) -> torch.Tensor: ...
    def shift(self) -> torch.Tensor: ...
    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor, num_images: int) -> None: ...
    def reset(self) -> None: ...
