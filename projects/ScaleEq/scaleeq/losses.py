"""Losses on logits, and how they average over pixels.

A crop can be void everywhere: the plain mean over labelled pixels is then 0 / 0. Here the loss is 0, with zero
gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .ops import resize

AVERAGES = ("valid", "all")


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    ignore_value: int = 255,
    average_over: str = "valid",
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy per pixel, averaged.

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W), 0..K-1 or `ignore_value`.
        average_over: "valid", the pixels that carry a label; "all", every pixel, void ones counting as zero loss
            (mmsegmentation's default). ValueError otherwise.
        class_weights: (K,), factors on the loss of a pixel by its label; "valid" divides by their sum, as torch does.

    Returns:
        (), float32 or float64; 0 where no pixel is valid.
    """
    if average_over not in AVERAGES:
        raise ValueError(f"LOSS.AVERAGE_OVER is {average_over!r}; choose one of {', '.join(AVERAGES)}")
    logits = _precise(logits)
    class_weights = None if class_weights is None else class_weights.to(logits.dtype)
    total = F.cross_entropy(logits, labels, class_weights, ignore_index=ignore_value, reduction="sum")
    if average_over == "all":
        return total / labels.numel()
    valid = labels != ignore_value
    if class_weights is None:
        return total / valid.sum().clamp(min=1)
    count = class_weights[labels.where(valid, 0)].where(valid, 0.0).sum()
    return total / count.where(count > 0, 1.0)


def _precise(logits: torch.Tensor) -> torch.Tensor:
    """Half precisions become float32."""
    return logits if logits.dtype == torch.float64 else logits.float()


class SegmentationLoss(nn.Module):
    """Cross entropy at the labels' resolution, weighted."""

    class_weights: torch.Tensor | None

    def __init__(
        self,
        *,
        ignore_value: int = 255,
        average_over: str = "valid",
        weight: float = 1.0,
        class_weights: Sequence[float] = (),
    ):
        """weight: of the whole loss. class_weights: one factor per class; empty: all 1."""
        super().__init__()
        if average_over not in AVERAGES:
            raise ValueError(f"LOSS.AVERAGE_OVER is {average_over!r}; choose one of {', '.join(AVERAGES)}")
        self.ignore_value = ignore_value
        self.average_over = average_over
        self.weight = weight
        if min(class_weights, default=0) < 0:
            raise ValueError(f"LOSS.CLASS_WEIGHTS is {list(class_weights)}; weights are not negative")
        weights = torch.tensor(class_weights, dtype=torch.float32) if len(class_weights) else None
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits: (N, K, h, w), any stride; labels: (N, H, W) -> ()."""
        upsampled = resize(_precise(logits), (labels.shape[-2], labels.shape[-1]))
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ValueError(f"LOSS.CLASS_WEIGHTS has {len(self.class_weights)} numbers for {logits.shape[1]} classes")
        loss = cross_entropy(
            upsampled,
            labels,
            ignore_value=self.ignore_value,
            average_over=self.average_over,
            class_weights=self.class_weights,
        )
        return self.weight * loss
