"""Mean and variance of a branch over a data set, per channel, and how well they are known.

Each batch's moments are taken around the batch's own mean: sums of a few thousand numbers in float32 (or the map's own
precision, if higher), which every device is fast at, and sums of these in float64. Batches are merged in float64 by
Chan's rule (1979). The relative standard error of a standard deviation from n independent batches is
CV(q) / (2 sqrt(n)), where q is a batch's mean squared deviation from the overall mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from scaleeq.ops.moments import channel_moments


@dataclass
class BranchMoments:
    """Count, mean (C,) and sum of squared deviations (C,), float64; each batch's (mean, variance) overall."""

    count: float = 0.0
    mean: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    squares: torch.Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    batches: list[tuple[float, float]] = field(default_factory=list)

    def update(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> None:
        """Add one batch.

        Args:
            x: (N, C, H, W), a branch.
            valid: (N, 2), the share of height and width of each image that is not padding; None: all of it.
        """
        parts = BranchMoments()
        for pixels in _valid_pixels(x.detach(), valid):
            mean, squares = channel_moments(pixels)
            count = float(pixels.numel() / pixels.shape[1])
            parts._merge_moments(BranchMoments(count, mean, squares))
        parts.batches = [parts.scalar()]
        self.merge(parts)

    def merge(self, other: BranchMoments) -> None:
        """Add the data of another. The result does not depend on the order beyond rounding."""
        self._merge_moments(other)
        self.batches = self.batches + other.batches

    def _merge_moments(self, other: BranchMoments) -> None:
        if other.count == 0:
            return
        if self.count == 0:
            self.count, self.mean, self.squares = other.count, other.mean, other.squares
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / total)
        self.squares = self.squares + other.squares + delta.square() * (self.count * other.count / total)
        self.count = total

    @property
    def variance(self) -> torch.Tensor:
        """(C,), population variance."""
        return self.squares / self.count

    def scalar(self) -> tuple[float, float]:
        """Mean and variance over all channels together: the mean of variances plus the variance of means."""
        mean = self.mean.mean()
        variance = self.variance.mean() + (self.mean - mean).square().mean()
        return float(mean), float(variance)

    def relative_standard_error(self) -> float:
        """Of the branch's standard deviation; inf below two batches, 0 for a constant branch."""
        if len(self.batches) < 2:
            return math.inf
        mean, variance = self.scalar()
        if variance == 0:
            return 0.0
        deviations = torch.tensor([v + (m - mean) ** 2 for m, v in self.batches], dtype=torch.float64)
        return float(deviations.std() / deviations.mean()) / (2 * math.sqrt(len(self.batches)))


def _valid_pixels(x: torch.Tensor, valid: torch.Tensor | None) -> list[torch.Tensor]:
    """The parts of a batch that are not padding: one tensor, or one (1, C, h, w) per image."""
    if valid is None:
        return [x]
    height, width = x.shape[-2:]
    parts = []
    for image, (share_y, share_x) in zip(x, valid.tolist(), strict=True):
        rows, columns = (max(1, math.ceil(n * s - 1e-6)) for n, s in ((height, share_y), (width, share_x)))
        parts.append(image[None, :, :rows, :columns])
    return parts
