"""Online hard example mining (OHEM, after arXiv 1604.03540): train on a batch's hardest pixels, relabel the rest void.

Both kinds return labels, so what follows is any mean over labelled pixels: over the kept ones with AVERAGE_OVER "valid"
(HRNet, DeepLab), over all of them with "all" (mmsegmentation: dropped pixels count as zero loss).

"top_k" is DeepLab's: the share of the pixels with the highest weighted loss, annealed linearly from 1. Deviation: a
share of the labelled pixels; DeepLab counts void ones too, so that a mostly void batch keeps its easy pixels.

"threshold" is HRNet's and mmsegmentation's: pixels whose class has a probability below a threshold, and in any case the
hardest min_kept an image, counted over the batch. Deviation: exactly that many where probabilities tie, and all pixels
where a batch has fewer; the originals compare with the next pixel's probability and may keep one less, or none.

The hardest pixels are those of the batch at hand: with gradient accumulation or several ranks, each micro-batch and
each rank keeps its own share. No device waits for a count.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

OHEM_KINDS = ("top_k", "threshold")


def annealed_share(iteration: torch.Tensor, *, top_k: float, anneal_iters: int) -> torch.Tensor:
    """iteration: (), from 0 -> (), the share that "top_k" keeps: 1, then linearly down to `top_k` at anneal_iters."""
    progress = (iteration / anneal_iters).clamp(max=1.0) if anneal_iters else torch.ones_like(iteration)
    return 1 - (1 - top_k) * progress


@torch.no_grad()
def top_k_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    share: torch.Tensor,
    ignore_value: int = 255,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Keep the labels of the pixels with the highest weighted cross entropy.

    Args:
        logits: (N, K, H, W), float32 or float64.
        labels: (N, H, W), 0..K-1 or `ignore_value`.
        share: () in (0, 1], of the labelled pixels of the batch; rounded, at least one pixel.
        class_weights: (K,), factors on the loss of a pixel by its label.

    Returns:
        (N, H, W): the labels, `ignore_value` where a pixel is not kept.
    """
    weights = None if class_weights is None else class_weights.to(logits.dtype)
    hardness = F.cross_entropy(logits, labels, weights, ignore_index=ignore_value, reduction="none")
    return hardest_labels(hardness, labels, share=share, ignore_value=ignore_value)


@torch.no_grad()
def hardest_labels(
    hardness: torch.Tensor, labels: torch.Tensor, *, share: torch.Tensor, ignore_value: int = 255
) -> torch.Tensor:
    """`top_k_labels` of pixels whose hardness is known: (N, H, W), their weighted cross entropy."""
    valid = labels != ignore_value
    num_valid = valid.sum()
    num_dropped = ((1 - share) * num_valid).round().long()  # counted from the easy end: share 1 drops exactly none
    kept = _hardest(hardness, valid, (num_valid - num_dropped).clamp(min=1))
    return labels.where(kept, ignore_value)


@torch.no_grad()
def threshold_labels(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    threshold: float,
    min_kept: int,
    ignore_value: int = 255,
) -> torch.Tensor:
    """Keep the labels of the pixels whose class is improbable.

    Args:
        logits: (N, K, H, W), float32 or float64.
        labels: (N, H, W), 0..K-1 or `ignore_value`.
        threshold: probability of a pixel's class, in [0, 1], below which it is kept; 0: min_kept alone.
        min_kept: pixels; the N * min_kept least probable ones of the batch are kept whatever the threshold.

    Returns:
        (N, H, W): the labels, `ignore_value` where a pixel is not kept.
    """
    hardness = F.cross_entropy(logits, labels, ignore_index=ignore_value, reduction="none")
    return improbable_labels(hardness, labels, threshold=threshold, min_kept=min_kept, ignore_value=ignore_value)


@torch.no_grad()
def improbable_labels(
    hardness: torch.Tensor, labels: torch.Tensor, *, threshold: float, min_kept: int, ignore_value: int = 255
) -> torch.Tensor:
    """`threshold_labels` of pixels whose hardness is known: (N, H, W), their cross entropy, 0 at void ones."""
    valid = labels != ignore_value
    kept = _hardest(hardness, valid, min_kept * len(labels))
    if threshold:
        kept |= hardness > -math.log(threshold)  # void pixels have 0
    return labels.where(kept, ignore_value)


def _hardest(hardness: torch.Tensor, valid: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """hardness, valid: (N, H, W) -> (N, H, W), True at the `count` (from 1 on) hardest valid pixels, or at all of them.

    Of equally hard ones the first are taken, in the order of the batch; a hardness that is not a number is the highest.
    """
    keys = hardness.nan_to_num(nan=math.inf, posinf=math.inf).masked_fill(~valid, -1.0).flatten()
    cut = _kth_largest(keys, count)
    harder, tied = keys > cut, keys == cut
    places_left = count - harder.sum()
    kept = harder | (tied & (tied.cumsum(0) <= places_left))
    return kept.view_as(valid) & valid


def _kth_largest(values: torch.Tensor, k: torch.Tensor | int) -> torch.Tensor:
    """values: (M,) -> (), the k-th largest, or the smallest where there are fewer; k: from 1 on."""
    if values.device.type == "cpu":  # ten times faster than sorting; elsewhere the host would wait for a counted k
        return values.kthvalue(max(1, len(values) + 1 - int(k))).values
    place = torch.as_tensor(k, device=values.device).clamp(max=len(values)) - 1
    return values.sort(descending=True).values.take(place)
