"""SegmentationLoss: logits of any stride and labels -> one number, as a head's options say."""

from __future__ import annotations

import torch
from torch import nn

from ..ops import resize
from .options import LossOptions
from .pixels import cross_entropy, focal_loss, pixel_count, precise


class SegmentationLoss(nn.Module):
    """The loss of a head at the labels' resolution: a pixel loss, weighted.

    A mean over pixels is not the mean of the means over parts of a batch. `prepare_step` therefore tells the loss what
    to divide by: with the mean of the `pixel_count`s of all micro-batches on all ranks, the mean of their losses is the
    loss of the whole batch, exactly.

    Args:
        weight: of the whole loss.
        options: which loss; by default plain cross entropy.
    """

    class_weights: torch.Tensor | None
    mean_count: torch.Tensor
    iteration: torch.Tensor

    def __init__(self, *, ignore_value: int = 255, weight: float = 1.0, options: LossOptions | None = None):
        super().__init__()
        self.ignore_value = ignore_value
        self.weight = weight
        self.options = options or LossOptions()
        weights = self.options.class_weights
        self.register_buffer("class_weights", torch.tensor(weights) if weights else None, persistent=False)
        # A number as the sum of two float32, exact to 48 bits: not every device has float64.
        self.register_buffer("mean_count", torch.zeros(2), persistent=False)
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def pixel_count(self, labels: torch.Tensor) -> torch.Tensor:
        """labels: (N, H, W) -> (), float64: what the mean over their pixels divides by."""
        weights = None if self.class_weights is None else self.class_weights.double()
        count = pixel_count(
            labels, ignore_value=self.ignore_value, average_over=self.options.average_over, class_weights=weights
        )
        return count.double()

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits: (N, K, h, w), any stride; labels: (N, H, W) -> ()."""
        self.options.check_classes(logits.shape[1])
        with torch.autocast(logits.device.type, enabled=False):
            upsampled = resize(precise(logits), (labels.shape[-2], labels.shape[-1]))
            return self.weight * self._pixel_loss(upsampled, labels)

    def _pixel_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        options = self.options
        common = {
            "ignore_value": self.ignore_value,
            "average_over": options.average_over,
            "class_weights": self.class_weights,
        }
        mean_count = self.mean_count.to(logits.dtype).sum()
        if options.focal_gamma:
            return focal_loss(logits, labels, gamma=options.focal_gamma, mean_count=mean_count, **common)
        return cross_entropy(logits, labels, label_smoothing=options.label_smoothing, mean_count=mean_count, **common)


@torch.no_grad()
def prepare_step(model: nn.Module, *, iteration: int, mean_count: float) -> None:
    """Tell every SegmentationLoss in `model` the iteration and what a mean over pixels divides by.

    Args:
        iteration: of the run, from 0.
        mean_count: the mean over micro-batches and ranks of `pixel_count(labels)`; 0: each batch its own count.
    """
    for module in model.modules():
        if isinstance(module, SegmentationLoss):
            rounded = torch.tensor(mean_count, dtype=torch.float32).item()
            module.mean_count.copy_(torch.tensor([rounded, mean_count - rounded]))
            module.iteration.fill_(iteration)
