"""SegmentationLoss: logits of any stride and labels -> one number, as a head's options say.

Computed in float32 (float64 for float64 logits): sums over a million pixels have no digits left in half precision.
Under autocast too, which lowers matrix products and convolutions: there is none in a loss.
"""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import nn

from scaleeq.ops import resize

from .ohem import annealed_share, threshold_labels, top_k_labels
from .options import LossOptions
from .pixels import cross_entropy, focal_loss, pixel_count, precise
from .regions import dice_loss, labelled_classes, lovasz_softmax


class SegmentationLoss(nn.Module):
    """weight * (pixel loss + DICE_WEIGHT * Dice + LOVASZ_WEIGHT * Lovasz-softmax), at the labels' resolution.

    A mean over pixels is not the mean of the means over parts of a batch. `prepare_step` therefore tells the loss what
    to divide by: with the mean of the `pixel_count`s of all micro-batches on all ranks, the mean of their losses is the
    loss of the whole batch, exactly. That holds for cross entropy, with or without label smoothing, and the focal loss.
    OHEM, Dice and Lovasz-softmax look at each micro-batch on each rank alone: what is hard there, which regions there
    are, depends on how a batch is split.

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
        """labels: (N, H, W) -> (), float64: what the mean over their pixels divides by.

        Where the labels are: of a batch on the CPU, no device waits or is waited for.
        """
        weights = None
        if self.class_weights is not None:
            rounded = torch.tensor(self.options.class_weights, dtype=torch.float32, device="cpu")
            weights = rounded.to(labels.device).double()
        average_over = self.options.average_over
        return pixel_count(
            labels, ignore_value=self.ignore_value, average_over=average_over, class_weights=weights
        ).double()

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits: (N, K, h, w), any stride; labels: (N, H, W), whole numbers of any type -> ()."""
        options, labels = self.options, labels.long()
        options.check_classes(logits.shape[1])
        upsampled = resize(precise(logits), (labels.shape[-2], labels.shape[-1]))
        loss = self._pixel_loss(upsampled, labels)
        if options.dice_weight or options.lovasz_weight:
            classes = labelled_classes(labels, num_classes=logits.shape[1], ignore_value=self.ignore_value)
        if options.dice_weight:
            dice = dice_loss(upsampled, labels, ignore_value=self.ignore_value, classes=classes)
            loss = loss + options.dice_weight * dice
        if options.lovasz_weight:
            lovasz = lovasz_softmax(upsampled, labels, ignore_value=self.ignore_value, classes=classes)
            loss = loss + options.lovasz_weight * lovasz
        return self.weight * loss

    def _pixel_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits: (N, K, H, W), labels: (N, H, W) -> ()."""
        options = self.options
        mean_count: torch.Tensor | None = self.mean_count.to(logits.dtype).sum()
        if options.ohem != "off":
            labels, mean_count = self._hard_labels(logits, labels), None
        if options.focal_gamma:
            return focal_loss(
                logits,
                labels,
                gamma=options.focal_gamma,
                ignore_value=self.ignore_value,
                average_over=options.average_over,
                class_weights=self.class_weights,
                mean_count=mean_count,
            )
        return cross_entropy(
            logits,
            labels,
            label_smoothing=options.label_smoothing,
            ignore_value=self.ignore_value,
            average_over=options.average_over,
            class_weights=self.class_weights,
            mean_count=mean_count,
        )

    def _hard_labels(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits: (N, K, H, W), labels: (N, H, W) -> (N, H, W), void where OHEM drops a pixel."""
        options = self.options
        if options.ohem == "top_k":
            share = annealed_share(self.iteration, top_k=options.ohem_top_k, anneal_iters=options.ohem_anneal_iters)
            return top_k_labels(
                logits, labels, share=share, ignore_value=self.ignore_value, class_weights=self.class_weights
            )
        return threshold_labels(
            logits,
            labels,
            threshold=options.ohem_threshold,
            min_kept=options.ohem_min_kept,
            ignore_value=self.ignore_value,
        )


def prepare_step(
    model: nn.Module, *, iteration: int, mean_count: float | torch.Tensor
) -> contextlib.AbstractContextManager[object]:
    """Tell every SegmentationLoss in `model` the iteration and what a mean over pixels divides by.

        with prepare_step(model, iteration=7, mean_count=count):
            ...  # the step's forward and backward passes

    They know it from the call on; at the end of the block, also after an error, they forget it, so that a later forward
    has its own count again.

    Args:
        iteration: of the run, from 0.
        mean_count: the mean over micro-batches and ranks of `pixel_count(labels)`; 0: each batch its own count. A
            tensor () float64 on the model's device where the host does not know it.
    """
    _tell(model, iteration, mean_count)
    forgetting = contextlib.ExitStack()
    forgetting.callback(_tell, model, 0, 0.0)
    return forgetting


@torch.no_grad()
def _tell(model: nn.Module, iteration: int, mean_count: float | torch.Tensor) -> None:
    """By filling in, not by copying: a copy from the host's memory would wait for the device."""
    rounded = mean_count.float() if isinstance(mean_count, torch.Tensor) else float(np.float32(mean_count))
    for module in model.modules():
        if isinstance(module, SegmentationLoss):
            module.mean_count[0].fill_(rounded)
            module.mean_count[1].fill_(mean_count - rounded)
            module.iteration.fill_(iteration)
