"""Scale equalizers (arXiv 2402.01149): a branch is normalised by one dataset-wide mean and standard deviation.

Deviations from the paper, chosen by EqualizerSpec: the paper's text does not say whether the pair is one number per
branch or one per channel ("branch" is our reading), and it folds the equalizer into the initial weights before
training ("init"), which is the same function at the first step and a different training; "module", "reparametrize" and
"init_scaled" train with the equalizer.
"""

from __future__ import annotations

import torch

from scaleeq.choices import one_of
from scaleeq.layers import WideBuffers
from scaleeq.ops import equalize_branch
from scaleeq.ops.weighted_sum import Affine

from .spec import GRANULARITIES


class BranchStatistics(WideBuffers):
    """The mean and the std of one branch over a data set; what is done with them is for the classes below to say.

    Buffers: mean and std, () or (C, 1, 1), in float32 at least; num_images, how many images they were measured on, 0
        before.
    exchangeable: forward may be exchanged with a resize, because it only multiplies with a number and adds one.
    """

    mean: torch.Tensor
    std: torch.Tensor
    num_images: torch.Tensor
    exchangeable = True

    def __init__(self, channels: int, *, granularity: str = "branch"):
        super().__init__()
        self.channels = channels
        self.granularity = one_of(granularity, GRANULARITIES, key="granularity")
        shape = () if granularity == "branch" else (channels, 1, 1)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("num_images", torch.zeros((), dtype=torch.int64))

    def scale(self) -> torch.Tensor:
        """(C,), what the branch is multiplied with at test time: here nothing is done to it."""
        return torch.ones_like(self.std).expand(self.channels)

    def shift(self) -> torch.Tensor:
        """(C,), what is then added."""
        return torch.zeros_like(self.std).expand(self.channels)

    @property
    def per_channel(self) -> bool:
        """Whether each channel has its own mean and std."""
        return self.std.dim() > 0

    @property
    def calibrated(self) -> bool:
        return bool(self.num_images > 0)

    @torch.no_grad()
    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor, num_images: int) -> None:
        """Take over a mean and a std, () or (C,), measured on `num_images` images.

        Raises:
            ValueError: a value that is not finite, or a std that is not positive.
        """
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
            raise ValueError(f"statistics must be finite, and std positive; got mean {mean}, std {std}")
        self.mean.copy_(mean.reshape(self.mean.shape))
        self.std.copy_(std.reshape(self.std.shape))
        self.num_images.fill_(num_images)

    def reset(self) -> None:
        """Back to the uncalibrated identity."""
        self.mean.zero_()
        self.std.fill_(1)
        self.num_images.zero_()

    def extra_repr(self) -> str:
        return f"{self.channels}, granularity={self.granularity!r}"


class ScaleEqualizer(BranchStatistics):
    """(x - mean) / std with constants; the identity until it is calibrated.

    centers: False where the mean is always zero, so that `center` has nothing to do.
    """

    def __init__(self, channels: int, *, granularity: str = "branch", centers: bool = True):
        super().__init__(channels, granularity=granularity)
        self.centers = centers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W), zero mean and unit variance over the data set."""
        return equalize_branch(x, self.mean, self.std)

    def center(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> x - mean, what is left to do once 1 / std is in the weights."""
        if not self.centers:
            return x
        return x - self.mean.to(x.dtype) if self.mean.dim() else x - self.mean

    def scale(self) -> torch.Tensor:
        """1 / std, (C,)."""
        return self.std.reciprocal().reshape(-1).expand(self.channels)

    def shift(self) -> torch.Tensor:
        """-mean / std, (C,)."""
        return (-self.mean / self.std).reshape(-1).expand(self.channels)

    def affine(self) -> Affine:
        """1 / std and -mean / std, () or (C, 1, 1)."""
        return Affine(self.std.reciprocal(), -self.mean / self.std)
