"""What an experiment compares a scale equalizer with, in the equalizer's place (MODEL.SCALE_EQUALIZER.CONTROL).

None of these is the paper's. Constants, set when the calibration ends:
    "common"             every branch by one std, the channel-weighted root mean square of all, and no mean: under a
                         batch norm this is no equalizer at all, up to its eps
    "permuted"           every branch by the std of the next one
    "balanced"           also by sqrt(C_i / mean of C): equal energy of the branches, not of their elements
Modules:
    "batch_norm"         a batch norm without affine on each branch: batch statistics instead of the data set's
    "learnable"          one learned factor a branch, from 1
    "learnable_from_std" the same, from 1 / std
    "noise"              in training a random factor a branch and batch, as large as the branches' stds differ
    "learning_rate"      nothing but 1 / std ** 2 on the learning rate of each branch's weights
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from scaleeq.fusion import Fusion

from .equalizer import BranchStatistics, ScaleEqualizer
from .implementations import attached
from .spec import EqualizerSpec


class Unscaled(BranchStatistics):
    """Keeps statistics and lets the branch through ("learning_rate")."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> x."""
        return x


class RandomScale(BranchStatistics):
    """x * std ** z in training, z from a normal distribution once a batch; x at test time."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return x * self.std.pow(torch.randn_like(self.std)).to(x.dtype) if self.training else x


class LearnedScale(BranchStatistics):
    """x * factor, a parameter that begins with 1, or with 1 / std once that is known."""

    def __init__(self, channels: int, *, from_std: bool):
        super().__init__(channels)
        self.from_std = from_std
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return x * self.factor.to(x.dtype)

    def scale(self) -> torch.Tensor:
        return self.factor.detach().expand(self.channels)

    @torch.no_grad()
    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor, num_images: int) -> None:
        super().set_statistics(mean, std, num_images)
        if self.from_std:
            self.factor.copy_(self.std.reciprocal())
            if not torch.isfinite(self.factor):
                raise ValueError(f"1 / std is {float(1 / self.std):.3g}, which {self.factor.dtype} cannot hold")

    @torch.no_grad()
    def reset(self) -> None:
        super().reset()
        self.factor.fill_(1)


class BatchNormScale(BranchStatistics):
    """A batch norm without affine, in the equalizer's place, with eps and momentum of another one."""

    exchangeable = False  # the variance of a resized map is another one

    def __init__(self, channels: int, like: _BatchNorm | None = None):
        """like: None: torch's defaults."""
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(channels, affine=False)
        if like is not None:
            self.norm.eps, self.norm.momentum = like.eps, like.momentum

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return self.norm(x)

    def scale(self) -> torch.Tensor:
        assert self.norm.running_var is not None
        return (self.norm.running_var + self.norm.eps).rsqrt()

    def shift(self) -> torch.Tensor:
        assert self.norm.running_mean is not None
        return -self.norm.running_mean * self.scale()


def make_equalizer(spec: EqualizerSpec, channels: int, fusion: Fusion) -> BranchStatistics:
    """The equalizer of a branch of `channels` channels, or the module that the spec's control puts in its place.

    fusion: that it is for; the control "batch_norm" is like the first batch norm in it (ESeg's have TensorFlow's eps).
    """
    if spec.control == "batch_norm":
        return BatchNormScale(channels, next((m for m in fusion.modules() if isinstance(m, _BatchNorm)), None))
    if spec.control in ("learnable", "learnable_from_std"):
        return LearnedScale(channels, from_std=spec.control == "learnable_from_std")
    if spec.control == "noise":
        return RandomScale(channels)
    if spec.control == "learning_rate":
        return Unscaled(channels)
    return ScaleEqualizer(channels, granularity=spec.granularity, centers=spec.centers)


def control_statistics(fusion: Fusion) -> None:
    """Replace the measured statistics of a calibrated fusion by those of its control, where that has constants."""
    control, equalizers = attached(fusion).spec.control, list(fusion.equalizer_of.values())
    # What was measured.
    means, stds = [e.mean.double().clone() for e in equalizers], [e.std.double().clone() for e in equalizers]
    widths = [e.channels for e in equalizers]
    # What the control makes of it.
    if control == "common":
        squares = [std.square() * width for std, width in zip(stds, widths, strict=True)]
        stds = [torch.stack(squares).sum().div(sum(widths)).sqrt()] * len(stds)
        means = [torch.zeros_like(mean) for mean in means]
    elif control == "permuted":
        stds = [*stds[1:], stds[0]]
    elif control == "balanced":
        stds = [std * math.sqrt(width * len(widths) / sum(widths)) for std, width in zip(stds, widths, strict=True)]
    elif control == "noise":
        stds = [torch.stack(stds).log().std(correction=0).exp()] * len(stds)
    else:
        return
    # Set that instead.
    for equalizer, mean, std in zip(equalizers, means, stds, strict=True):
        equalizer.set_statistics(mean, std, int(equalizer.num_images))
