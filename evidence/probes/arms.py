"""What is done to the branches of a fusion before it, as one scale and one shift of each channel.

The words are those of MODEL.SCALE_EQUALIZER (equalized, init, and the controls common, permuted, batch_norm, learnable)
but for two: "channel" is GRANULARITY 'channel', and "smaller" divides the initial weights by the common std and leaves
the branches as they are: the size of the first activations without any normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .features import Features, Pixels

ARMS = {
    "off": "branches as they are",
    "equalized": "(branch - mean) / std, one pair a branch",
    "init": "the paper's initializer: 1 / std and the mean in the initial weights and the bias",
    "batch_norm": "a batch norm without affine on each branch",
    "learnable": "a learnt factor a branch, from 1",
    "channel": "(branch - mean) / std, one pair a channel",
    "common": "every branch divided by one number, the std of all",
    "permuted": "(branch - mean) / std of the next branch",
    "smaller": "branches as they are, initial weights divided by the std of all",
}
SAMPLE = 20_000  # pixels that are kept, for the scales of what a fusion computes itself
PIXELS_AN_IMAGE = 400


@dataclass(frozen=True)
class Statistics:
    """Of the branches over a training set. channel_*: (C,); mean, std: (n,), of each branch; sample: (P, C)."""

    widths: tuple[int, ...]
    channel_mean: Tensor
    channel_std: Tensor
    mean: Tensor
    std: Tensor
    sample: Tensor

    @classmethod
    def of(cls, rows: Tensor, widths: tuple[int, ...]) -> Statistics:
        """rows: (P, C) features."""
        exact = rows.double()
        means, variances = exact.mean(0), exact.var(0, unbiased=False)
        mean = torch.stack([part.mean() for part in means.split(widths)])
        # The variance of a branch is that inside its channels and that of their means.
        between = [part.var(unbiased=False) for part in means.split(widths)]
        std = torch.stack([part.mean() + b for part, b in zip(variances.split(widths), between, strict=True)]).sqrt()
        return cls(
            widths, means.float(), variances.sqrt().float(), mean.float(), std.float(), rows[: min(len(rows), SAMPLE)]
        )

    @classmethod
    def measured(cls, features: Features, images: Sequence[int]) -> Statistics:
        """Over pixels of some images, in random order."""
        generator = torch.Generator().manual_seed(99)
        pixels = Pixels.drawn(torch.as_tensor(images), PIXELS_AN_IMAGE, features.size, generator)
        order = torch.randperm(len(pixels), generator=generator)
        pixels = Pixels(pixels.image[order], pixels.row[order], pixels.column[order])
        taps, features.taps = features.taps, 1
        rows = features.rows(pixels)
        features.taps = taps
        return cls.of(rows, features.widths)

    def energy_shares(self, dose: Tensor | None = None) -> Tensor:
        """(n,): C std^2 of each branch over the sum of all; dose: (n,) factors."""
        energy = torch.tensor(self.widths) * (self.std if dose is None else self.std * dose).square()
        return energy / energy.sum()


def over_channels(values: Tensor, widths: Sequence[int]) -> Tensor:
    """(n,) a number a branch -> (C,)."""
    return torch.repeat_interleave(values, torch.tensor(widths))


def common_std(std: Tensor, widths: Sequence[int]) -> Tensor:
    """(): the root mean square of all channels' stds, by which "common" and "smaller" divide."""
    width = torch.tensor(widths)
    return ((width * std.square()).sum() / width.sum()).sqrt()


def branch_affine(arm: str, mean: Tensor, std: Tensor, widths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Scale and shift (n,) of an arm that has one pair a branch; the identity for the others."""
    if arm == "equalized":
        return 1 / std, -mean / std
    if arm == "common":
        return torch.ones_like(std) / common_std(std, widths), torch.zeros_like(mean)
    if arm == "permuted":
        return 1 / std.roll(-1), -mean / std.roll(-1)
    return torch.ones_like(std), torch.zeros_like(mean)


def affine(arm: str, statistics: Statistics, dose: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of an arm, of features that are not yet multiplied by dose: (n,)."""
    widths, doses = statistics.widths, over_channels(dose, statistics.widths)
    if arm == "channel":
        std = statistics.channel_std * doses
        return doses / std, -statistics.channel_mean * doses / std
    scale, shift = branch_affine(arm, statistics.mean * dose, statistics.std * dose, widths)
    return over_channels(scale, widths) * doses, over_channels(shift, widths)


def initial(arm: str, weight: Tensor, statistics: Statistics, dose: Tensor) -> tuple[Tensor, Tensor]:
    """weight: (H, C) as it was drawn -> the arm's own (H, C), and what its bias (H,) begins with besides."""
    mean, std = statistics.mean * dose, statistics.std * dose
    nothing = torch.zeros(len(weight))
    if arm == "smaller":
        return weight / common_std(std, statistics.widths), nothing
    if arm != "init":
        return weight, nothing
    scaled = weight / over_channels(std, statistics.widths)
    return scaled, -(scaled * over_channels(mean, statistics.widths)).sum(1)
