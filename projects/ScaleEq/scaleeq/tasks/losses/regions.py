"""Losses of regions, beside a cross entropy: soft Dice (arXiv 1606.04797) and Lovasz-softmax (arXiv 1705.08790).

Both compare, class by class, the region that is predicted with the one that is labelled, over all pixels of the batch
together (image by image would be noisier on crops), and average over the classes that are labelled in it: of an absent
class they could only say that it is absent. Void pixels take no part. Class weights do not apply: a region loss weights
classes alike already.

A ratio of sums is not a mean: with gradient accumulation or several ranks, the regions are those of each micro-batch on
each rank, and the mean of their losses is not the loss of the whole batch.

Only maps of the labelled classes are made, a handful at a time, and no softmax over all: of ADE20K's 150 classes a crop
has about ten. How many there are is known when the labels are: the host waits for them, once for both losses (maps of
all classes would need no wait, but fifteen times the memory and the sorting). torch.compile leaves these functions as
they are: it would compile them again for each number of classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from .pixels import precise

_P = ParamSpec("_P")
_R = TypeVar("_R")


def uncompiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """torch.compiler.disable, which imports the whole compiler where it decorates; this does so where one compiles."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        run = torch.compiler.disable(function) if torch.compiler.is_compiling() else function
        return run(*args, **kwargs)

    return call


@uncompiled
@torch.no_grad()
def labelled_classes(labels: torch.Tensor, *, num_classes: int, ignore_value: int = 255) -> torch.Tensor:
    """labels: (N, H, W), 0..num_classes-1 or `ignore_value` -> (C,) int64, those that are there, in ascending order.

    The host waits for it.
    """
    # The void pixels go to a place of their own, because a flag at their label may lie outside the classes.
    places = labels.long().where(labels != ignore_value, num_classes).flatten()
    found = torch.zeros(num_classes + 1, dtype=torch.bool, device=labels.device).index_fill_(0, places, True)
    return found[:num_classes].nonzero().flatten()


@uncompiled
def dice_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, ignore_value: int = 255, classes: torch.Tensor | None = None
) -> torch.Tensor:
    """1 - 2 sum(p g) / (sum(p^2) + sum(g^2)), averaged over the labelled classes: V-Net's squared denominator.

    Args:
        logits: (N, K, H, W); p is their softmax.
        labels: (N, H, W), 0..K-1 or `ignore_value`; g is 1 at the pixels of a class, else 0.
        classes: `labelled_classes` of these labels, where they are known already.

    Returns:
        (), float32 or float64; 0 where no pixel is valid.
    """
    probabilities, is_class, valid = _maps_of_classes(logits, labels, ignore_value, classes)
    overlap = probabilities.where(is_class, 0.0).sum((0, 2, 3))
    size = probabilities.where(valid, 0.0).square().sum((0, 2, 3)) + is_class.sum((0, 2, 3))
    return (1 - 2 * overlap / size).sum() / max(1, len(size))


@uncompiled
def lovasz_softmax(
    logits: torch.Tensor, labels: torch.Tensor, *, ignore_value: int = 255, classes: torch.Tensor | None = None
) -> torch.Tensor:
    """The Lovasz extension of 1 - IoU at the pixels' errors |g - p|, averaged over the labelled classes.

    It is linear in the errors while their order stays, so its slopes are computed first, without a graph.

    Args:
        logits: (N, K, H, W); p is their softmax.
        labels: (N, H, W), 0..K-1 or `ignore_value`; g is 1 at the pixels of a class, else 0.
        classes: `labelled_classes` of these labels, where they are known already.

    Returns:
        (), float32 or float64; 0 where no pixel is valid.
    """
    probabilities, is_class, valid = _maps_of_classes(logits, labels, ignore_value, classes)
    errors = (1 - probabilities).where(is_class, probabilities)
    slopes = torch.zeros_like(errors)
    for index in range(errors.shape[1]):
        slopes[:, index] = lovasz_slopes(errors[:, index].detach(), is_class[:, index], valid[:, 0])
    return (slopes * errors).sum() / max(1, errors.shape[1])


@torch.no_grad()
def lovasz_slopes(errors: torch.Tensor, is_class: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """How much each pixel adds to 1 - IoU when pixels turn wrong in order of decreasing error.

    With I labelled pixels still right and U pixels in the union: a labelled one takes 1 / U, another, which joins the
    union, I / (U (U - 1)). Differences of two IoUs, as in the paper's listing, would lose these digits in float32.

    Args:
        errors: (N, H, W), from 0 to 1.
        is_class, valid: (N, H, W), bool.

    Returns:
        (N, H, W); 0 at void pixels, which come last, when no labelled one is still right.
    """
    order = errors.masked_fill(~valid, -1.0).flatten().argsort(descending=True, stable=True)
    labelled = is_class.flatten()[order]
    num_wrong = labelled.cumsum(0)
    rank = torch.arange(1, len(order) + 1, device=order.device)
    right = (num_wrong[-1] - num_wrong).to(errors.dtype)
    union = (num_wrong[-1] + rank - num_wrong).to(errors.dtype)
    in_order = (1 / union).where(labelled, right / (union * (union - 1)))
    return torch.empty_like(in_order).scatter_(0, order, in_order).view_as(errors)


def _maps_of_classes(
    logits: torch.Tensor, labels: torch.Tensor, ignore_value: int, classes: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Softmax (N, C, H, W) of the C labelled classes, where they are (N, C, H, W), and valid pixels (N, 1, H, W)."""
    if classes is None:
        classes = labelled_classes(labels, num_classes=logits.shape[1], ignore_value=ignore_value)
    logits, labels = precise(logits), labels.unsqueeze(1)
    scores = logits.index_select(1, classes) - logits.logsumexp(1, keepdim=True)
    return scores.exp(), labels == classes.view(-1, 1, 1), labels != ignore_value
