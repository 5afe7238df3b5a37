"""Losses on logits, and how they average over pixels.

A crop can be void everywhere: the plain mean over labelled pixels is then 0 / 0. Here the loss is 0, with zero
gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .ops import resize

AVERAGES = ("valid", "all")


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, *, ignore_value: int = 255, average_over: str = "valid"
) -> torch.Tensor:
    """Cross entropy per pixel, averaged.

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W), 0..K-1 or `ignore_value`.
        average_over: "valid", the pixels that carry a label; "all", every pixel, void ones counting as zero loss
            (mmsegmentation's default). ValueError otherwise.

    Returns:
        (), float32; 0 where no pixel is valid.
    """
    if average_over not in AVERAGES:
        raise ValueError(f"LOSS.AVERAGE_OVER is {average_over!r}; choose one of {', '.join(AVERAGES)}")
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore_value, reduction="sum")
    count = (labels != ignore_value).sum().clamp(min=1) if average_over == "valid" else labels.numel()
    return total / count


class SegmentationLoss(nn.Module):
    """Cross entropy at the labels' resolution, weighted."""

    def __init__(self, *, ignore_value: int = 255, average_over: str = "valid", weight: float = 1.0):
        super().__init__()
        if average_over not in AVERAGES:
            raise ValueError(f"LOSS.AVERAGE_OVER is {average_over!r}; choose one of {', '.join(AVERAGES)}")
        self.ignore_value = ignore_value
        self.average_over = average_over
        self.weight = weight

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits: (N, K, h, w), any stride; labels: (N, H, W) -> ()."""
        upsampled = resize(logits.float(), (labels.shape[-2], labels.shape[-1]))
        loss = cross_entropy(upsampled, labels, ignore_value=self.ignore_value, average_over=self.average_over)
        return self.weight * loss
