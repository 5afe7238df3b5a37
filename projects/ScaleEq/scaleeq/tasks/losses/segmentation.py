"""SegmentationLoss: logits of any stride and labels -> one number, as a head's options say.

Computed in float32 (float64 for float64 logits): sums over a million pixels have no digits left in half precision.
Under autocast too. A loss of single pixels is computed in strips of rows (`strips`), without the upsampled map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from scaleeq.ops import resize

from .averaging import Averaging
from .ohem import annealed_share, hardest_labels, improbable_labels
from .options import LossOptions
from .pixels import average, cross_entropy, focal_loss, pixel_count, precise
from .regions import dice_loss, labelled_classes, lovasz_softmax
from .strips import PixelLoss, strip_loss, strip_pixel_losses


class SegmentationLoss(Averaging):
    """weight * (pixel loss + DICE_WEIGHT * Dice + LOVASZ_WEIGHT * Lovasz-softmax), at the labels' resolution.

    `prepare_step` (`averaging`) tells the loss what a mean over pixels divides by. With the mean of the `pixel_count`s
    of all micro-batches on all ranks, the mean of their losses is the loss of the whole batch, exactly: of cross
    entropy, with or without label smoothing, and of the focal loss.
    OHEM, Dice and Lovasz-softmax look at each micro-batch on each rank alone: what is hard there, which regions there
    are, depends on how a batch is split.

    Args:
        weight: of the whole loss.
        options: which loss; by default plain cross entropy.
        in_strips: whether it may be computed in strips; False: as the formulas are written, on the upsampled map.
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        *,
        ignore_value: int = 255,
        weight: float = 1.0,
        options: LossOptions | None = None,
        in_strips: bool = True,
    ):
        super().__init__()
        self.in_strips = in_strips
        self.ignore_value = ignore_value
        self.weight = weight
        self.options = options or LossOptions()
        weights = self.options.class_weights
        self.register_buffer("class_weights", torch.tensor(weights) if weights else None, persistent=False)

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

    def forward(
        self, logits: torch.Tensor, labels: torch.Tensor, mean_count: torch.Tensor | None = None
    ) -> torch.Tensor:
        """logits: (N, K, h, w), any stride; labels: (N, H, W), whole numbers of any type -> ().

        mean_count: what a mean over pixels divides by, as the sum of its elements; None: what the step has told.
        """
        options = self.options
        options.check_classes(logits.shape[1])
        size, told = (labels.shape[-2], labels.shape[-1]), self.mean_count if mean_count is None else mean_count
        if self._takes_strips(logits, size):
            return self.weight * self._loss_in_strips(precise(logits), labels, told)
        # The loss of pixels, of the whole map.
        labels = labels.long()
        upsampled = resize(precise(logits), size)
        loss = self._pixel_loss(upsampled, labels, told)
        # Those of regions, over the classes that occur.
        if options.dice_weight or options.lovasz_weight:
            classes = labelled_classes(labels, num_classes=logits.shape[1], ignore_value=self.ignore_value)
        if options.dice_weight:
            dice = dice_loss(upsampled, labels, ignore_value=self.ignore_value, classes=classes)
            loss = loss + options.dice_weight * dice
        if options.lovasz_weight:
            lovasz = lovasz_softmax(upsampled, labels, ignore_value=self.ignore_value, classes=classes)
            loss = loss + options.lovasz_weight * lovasz
        return self.weight * loss

    def _takes_strips(self, logits: torch.Tensor, size: tuple[int, int]) -> bool:
        """Region losses need the whole map, and so does a compiler, which fuses what it sees whole."""
        of_pixels = not (self.options.dice_weight or self.options.lovasz_weight)
        resized = tuple(logits.shape[-2:]) != size
        return self.in_strips and of_pixels and resized and not torch.compiler.is_compiling()

    def _loss_in_strips(self, logits: torch.Tensor, labels: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """logits: (N, K, h, w), labels: (N, H, W) -> (), equal to `_pixel_loss` of the upsampled logits."""
        options, weights = self.options, self.class_weights
        weights = None if weights is None else weights.to(logits.dtype)
        mean_count: torch.Tensor | None = told.to(logits.dtype).sum()
        # A first pass finds the hard pixels.
        if options.ohem != "off":
            of_hardness = PixelLoss(
                ignore_value=self.ignore_value, class_weights=weights if options.ohem == "top_k" else None
            )
            hardness = strip_pixel_losses(logits, labels, of_hardness)
            labels, mean_count = self._hard_labels(hardness, labels), None
        # Their loss, strip by strip.
        loss = PixelLoss(
            ignore_value=self.ignore_value,
            class_weights=weights,
            label_smoothing=options.label_smoothing,
            focal_gamma=options.focal_gamma,
        )
        count = pixel_count(
            labels, ignore_value=self.ignore_value, average_over=options.average_over, class_weights=weights
        )
        return average(strip_loss(logits, labels, loss), count, mean_count)

    def _pixel_loss(self, logits: torch.Tensor, labels: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        """logits: (N, K, H, W), labels: (N, H, W) -> ()."""
        options = self.options
        mean_count: torch.Tensor | None = told.to(logits.dtype).sum()
        if options.ohem != "off":
            labels, mean_count = self._hard_labels(self._hardness(logits, labels), labels), None
        # Focal loss has its own form.
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

    @torch.no_grad()
    def _hardness(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits: (N, K, H, W), labels: (N, H, W) -> (N, H, W), what OHEM ranks pixels by."""
        weights = self.class_weights if self.options.ohem == "top_k" else None
        weights = None if weights is None else weights.to(logits.dtype)
        return F.cross_entropy(logits, labels, weights, ignore_index=self.ignore_value, reduction="none")

    def _hard_labels(self, hardness: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """hardness, labels: (N, H, W) -> (N, H, W), void where OHEM drops a pixel."""
        options = self.options
        if options.ohem == "top_k":
            share = annealed_share(self.iteration, top_k=options.ohem_top_k, anneal_iters=options.ohem_anneal_iters)
            return hardest_labels(hardness, labels, share=share, ignore_value=self.ignore_value)
        return improbable_labels(
            hardness,
            labels,
            threshold=options.ohem_threshold,
            min_kept=options.ohem_min_kept,
            ignore_value=self.ignore_value,
        )
