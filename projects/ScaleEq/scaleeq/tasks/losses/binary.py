"""Balanced cross entropy of two outcomes: of edges, which are rare, and of what is salient.

Source: HED (Xie and Tu 2015): weight w of the positive pixels, 1 - w of the others. Deviation: where w follows from the
truth it is each image's own share of negatives, not a batch's, so that an image's loss does not depend on its
neighbours, nor on how a batch is cut.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

VOID = 255


def balanced_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, *, positive_weight: float) -> torch.Tensor:
    """The sum over valid pixels.

    logits: (N, H, W) float32; targets: (N, H, W), 0, 1 or 255, which is not valid -> ().
    positive_weight: w, in (0, 1); 0: of each image, its share of negatives.
    """
    valid, positive = targets != VOID, targets == 1
    weight = torch.full((len(targets), 1, 1), positive_weight, dtype=logits.dtype, device=logits.device)
    if not positive_weight:
        count = valid.sum((1, 2), keepdim=True).clamp(min=1)
        weight = 1 - positive.sum((1, 2), keepdim=True) / count.to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    return (losses * torch.where(positive, weight, 1 - weight) * valid).sum()
