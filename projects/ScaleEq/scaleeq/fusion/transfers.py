"""Transfers: what brings a branch to the size of the fusion's reference branch.

Those that look at the reference's values (FaPN) are in aligned.py.

Sources: bilinear and nearest interpolation; deconvolution as in FaPN's ablation (arXiv 2108.07058); convolutions and x2
steps of Panoptic FPN (arXiv 1901.02446); gates of GSTO (arXiv 2005.13363); poolings of BiFPN (arXiv 1911.09070).
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.layers import ConvNormAct, Gate, NormFactory, SupervisedGate, caffe2_xavier_
from scaleeq.ops import pool_half, resize
from scaleeq.ops.resize import RESIZE_MODES

from .aligned import ALIGNED, Aligned, AlignedRealtime
from .ports import Transfer

TRANSFERS = ("none", *RESIZE_MODES, "deconv", "gated", "supervised_gated", *ALIGNED)
DOWN_TRANSFERS = ("max", "avg")


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


class Interpolated(nn.Module):
    """What ends with an interpolation to the reference's size."""

    mode = "bilinear"

    def forward(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """x: (N, C, h, w); reference: (N, C', H, W) -> (N, C, H, W)."""
        return resize(self.before_resize(x), (reference.shape[-2], reference.shape[-1]), self.mode)

    def before_resize(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, h, w) -> (N, C, h, w), what is interpolated: x itself where nothing comes before that."""
        return x


class Resize(Interpolated):
    """Interpolation alone."""

    keeps_constants = True

    def __init__(self, mode: str = "bilinear"):
        super().__init__()
        self.mode = one_of(mode, RESIZE_MODES, key="transfer")

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


class Deconv(nn.Module):
    """A learnt 4x4 transposed convolution of stride 2; a reference of odd size takes the upper left part."""

    keeps_constants = False

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        caffe2_xavier_(self.conv)

    def forward(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """x: (N, C, h, w); reference: (N, C', H, W) with h = ceil(H / 2), w = ceil(W / 2) -> (N, C, H, W)."""
        height, width = reference.shape[-2:]
        if tuple(x.shape[-2:]) != ((height + 1) // 2, (width + 1) // 2):
            raise ValueError(f"transfer 'deconv' doubles a size: {tuple(x.shape[-2:])} does not become {height, width}")
        return self.conv(x)[..., :height, :width]


class Progressive(nn.Module):
    """`steps` times (3x3 convolution, norm, ReLU, bilinear x2); for 0 steps the convolution block alone."""

    keeps_constants = False

    def __init__(self, in_channels: int, channels: int, *, steps: int, norm: NormFactory | None = None):
        super().__init__()
        # The first convolution changes the width.
        widths = [in_channels] + [channels] * max(steps, 1)
        self.convs = nn.ModuleList(ConvNormAct(a, b, kernel_size=3, norm=norm) for a, b in itertools.pairwise(widths))

    def forward(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """x: (N, C_in, h, w); reference: (N, C', H, W) -> (N, channels, H, W)."""
        # Double each time, and meet the reference's size at the end.
        *first, last = self.convs
        for conv in first:
            x = conv(x)
            x = resize(x, (x.shape[-2] * 2, x.shape[-1] * 2))
        return resize(last(x), (reference.shape[-2], reference.shape[-1]))


class Gated(Interpolated):
    """A gate at the source resolution, then bilinear interpolation."""

    keeps_constants = False

    def __init__(self, gate: nn.Module):
        super().__init__()
        self.gate = gate

    def before_resize(self, x: torch.Tensor) -> torch.Tensor:
        return self.gate(x)


class Pool(nn.Module):
    """3x3 pooling of stride 2 to half the size, rounded up; padding never counts."""

    keeps_constants = True  # both commute with x -> (x - mean) / std for a positive std

    def __init__(self, kind: str = "max"):
        super().__init__()
        self.kind = one_of(kind, DOWN_TRANSFERS, key="PYRAMID.DOWN_TRANSFER")

    def forward(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """x: (N, C, h, w); reference: (N, C', ceil(h / 2), ceil(w / 2)) -> (N, C, H, W)."""
        expected = tuple((size + 1) // 2 for size in x.shape[-2:])
        if tuple(reference.shape[-2:]) != expected:
            raise ValueError(
                f"pooling halves {tuple(x.shape[-2:])} to {expected}; the reference has {tuple(reference.shape[-2:])}"
            )
        return pool_half(x, self.kind)

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}"


def make_transfer(
    name: str, channels: int = 0, *, norm: NormFactory | None = None, gate: str = "paper", num_classes: int = 0
) -> Transfer:
    """The transfer of a config value; channels of the branch, for those with weights.

    norm: of FaPN's offset convolution; gate: kind of the gates; num_classes: of a supervised gate.
    ValueError, with the choices, for a name outside TRANSFERS and DOWN_TRANSFERS.
    """
    one_of(name, TRANSFERS + DOWN_TRANSFERS, key="transfer")
    if name == "none":
        return Keep()
    if name in RESIZE_MODES:
        return Resize(name)
    if name in DOWN_TRANSFERS:
        return Pool(name)
    # Those above have no weights, so they do not ask for a width.
    if channels < 1:
        raise ValueError(f"transfer {name!r} has weights; it needs the channels of its branch, not {channels}")
    if name == "deconv":
        return Deconv(channels)
    if name == "gated":
        return Gated(Gate(channels, kind=gate))
    if name == "supervised_gated":
        return Gated(SupervisedGate(channels, num_classes, kind=gate))
    if name == "aligned_realtime":
        return AlignedRealtime(channels, norm=norm)
    return Aligned(channels, norm=norm, from_self=name == "aligned_self")
