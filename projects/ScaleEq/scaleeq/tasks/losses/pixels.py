"""Losses of single pixels, and how they average: cross entropy, with label smoothing, and the focal loss.

Cross entropy, class weights and label smoothing have torch's meaning. The focal loss (arXiv 1708.02002) multiplies a
pixel's cross entropy with (1 - p)^gamma, p the probability of its class. Deviations: softmax where the paper has a
sigmoid per class, class weights where it has alpha, and the mean of a cross entropy where it divides by the number of
foreground anchors.

A crop can be void everywhere: the plain mean over labelled pixels is then 0 / 0. Here the loss is 0, with zero
gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

AVERAGES = ("valid", "all")


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    ignore_value: int = 255,
    average_over: str = "valid",
    class_weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    mean_count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy per pixel, averaged.

    Args:
        logits: (N, K, H, W).
        labels: (N, H, W), 0..K-1 or `ignore_value`.
        average_over: "valid", the pixels that carry a label; "all", every pixel, void ones counting as zero loss
            (mmsegmentation's default). ValueError otherwise.
        class_weights: (K,), factors on the loss of a pixel by its label; "valid" divides by their sum, as torch does.
        label_smoothing: share of the target that is spread evenly over all classes.
        mean_count: (), what the sum is divided by where it is positive; else the `pixel_count` of these labels.

    Returns:
        (), float32 or float64; 0 where no pixel is valid.
    """
    logits = precise(logits)
    weights = None if class_weights is None else class_weights.to(logits.dtype)
    total = F.cross_entropy(
        logits, labels, weights, ignore_index=ignore_value, reduction="sum", label_smoothing=label_smoothing
    )
    count = pixel_count(labels, ignore_value=ignore_value, average_over=average_over, class_weights=weights)
    return average(total, count, mean_count)


def focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    gamma: float,
    ignore_value: int = 255,
    average_over: str = "valid",
    class_weights: torch.Tensor | None = None,
    mean_count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross entropy times (1 - probability of the pixel's class)^gamma, averaged; arguments as of `cross_entropy`.

    Returns:
        (), float32 or float64; 0 where no pixel is valid.
    """
    logits = precise(logits)
    surprise = F.cross_entropy(logits, labels, ignore_index=ignore_value, reduction="none")
    # expm1 keeps 1 - p exact near p = 1; the floor keeps the power's slope finite at p = 1, where gamma may be below 1.
    wrong = (-torch.expm1(-surprise)).clamp(min=torch.finfo(surprise.dtype).tiny)
    losses = wrong**gamma * surprise
    weights = None if class_weights is None else class_weights.to(logits.dtype)
    if weights is not None:
        losses = losses * pixel_weights(labels, weights, ignore_value=ignore_value)
    count = pixel_count(labels, ignore_value=ignore_value, average_over=average_over, class_weights=weights)
    return average(losses.sum(), count, mean_count)


def pixel_count(
    labels: torch.Tensor,
    *,
    ignore_value: int = 255,
    average_over: str = "valid",
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """What a mean over the pixels of labels (N, H, W) divides by -> ().

    "all": the number of pixels. "valid": that of the labelled ones, or the sum of their class weights.
    """
    if average_over not in AVERAGES:
        raise ValueError(f"LOSS.AVERAGE_OVER is {average_over!r}; choose one of {', '.join(AVERAGES)}")
    if average_over == "all":
        return torch.full((), labels.numel(), device=labels.device)
    if class_weights is None:
        return (labels != ignore_value).sum()
    return pixel_weights(labels, class_weights, ignore_value=ignore_value).sum()


def pixel_weights(labels: torch.Tensor, class_weights: torch.Tensor, *, ignore_value: int = 255) -> torch.Tensor:
    """labels: (N, H, W); class_weights: (K,) -> (N, H, W), the weight of each pixel's class, 0 for void."""
    valid = labels != ignore_value
    return class_weights[labels.long().where(valid, 0)].where(valid, 0.0)  # bytes would select as a mask does


def average(total: torch.Tensor, count: torch.Tensor, mean_count: torch.Tensor | None = None) -> torch.Tensor:
    """() / (): total / mean_count where that is positive, else total / count, else total."""
    count = count.to(total.dtype)
    if mean_count is not None:
        mean_count = mean_count.to(total.dtype)
        count = mean_count.where(mean_count > 0, count)
    return total / count.where(count > 0, 1.0)


def precise(logits: torch.Tensor) -> torch.Tensor:
    """Half precisions become float32."""
    return logits if logits.dtype == torch.float64 else logits.float()
