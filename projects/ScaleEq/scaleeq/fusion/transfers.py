"""Transfers: what brings a branch to the size of the fusion's reference branch.

A transfer is a module `(x, reference) -> map of the reference's height and width`. `keeps_constants` says that a
constant map stays that constant, so that an equalizer may act before the transfer, at the source resolution, with the
same result.
"""

from __future__ import annotations

import torch
from torch import nn

from ..ops import resize
from ..ops.resize import RESIZE_MODES

TRANSFERS = ("none", *RESIZE_MODES)


class Keep(nn.Module):
    """No transfer: the branch has the reference's size already."""

    keeps_constants = True

    def forward(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W); reference: (N, C', H, W) -> x."""
        if x.shape[-2:] != reference.shape[-2:]:
            raise ValueError(
                f"a branch of size {tuple(x.shape[-2:])} meets a reference of size {tuple(reference.shape[-2:])} "
                "and has no transfer; give it transfer 'bilinear' or 'nearest'"
            )
        return x


class Resize(nn.Module):
    """Interpolation to the reference's size."""

    keeps_constants = True

    def __init__(self, mode: str = "bilinear"):
        super().__init__()
        if mode not in RESIZE_MODES:
            raise ValueError(f"transfer {mode!r} is unknown; choose one of {', '.join(TRANSFERS)}")
        self.mode = mode

    def forward(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """x: (N, C, h, w); reference: (N, C', H, W) -> (N, C, H, W)."""
        return resize(x, (reference.shape[-2], reference.shape[-1]), self.mode)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


def make_transfer(name: str) -> nn.Module:
    """The transfer of a config value. ValueError, with the choices, for a name outside TRANSFERS."""
    return Keep() if name == "none" else Resize(name)
