"""Losses of single pixels on logits of a lower resolution, a strip of rows at a time: the upsampled map never exists.

A strip is upsampled, its losses are added up, and their slopes by its logits go back through the transposed resize to
the small map at once, in the forward pass; the backward pass multiplies. A strip stays in the cache, and what a graph
would keep, several maps of all classes at the labels' resolution, is not kept. Equal to the functions of `pixels` on
the upsampled map but for the rounding of sums in another order.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from scaleeq.ops.strips import Block, StripResize, precise_products


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelLoss:
    """What is computed of a pixel: cross entropy, with label smoothing, or the focal loss; as `pixels` says.

    class_weights: (K,), in the type of the logits.
    """

    ignore_value: int = 255
    class_weights: torch.Tensor | None = None
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0


def strip_loss(logits: torch.Tensor, labels: torch.Tensor, loss: PixelLoss) -> torch.Tensor:
    """The sum of the losses of all pixels.

    logits: (N, K, h, w), float32 or float64; labels: (N, H, W), whole numbers of any type -> ().
    """
    if torch.is_grad_enabled() and logits.requires_grad:
        return _StripLoss.apply(logits, labels, loss)  # type: ignore[no-untyped-call]
    return torch.stack([values.sum() for values in _losses(logits, labels, loss)]).sum()


@torch.no_grad()
def strip_pixel_losses(logits: torch.Tensor, labels: torch.Tensor, loss: PixelLoss) -> torch.Tensor:
    """logits: (N, K, h, w); labels: (N, H, W) -> (N, H, W), the loss of each pixel, 0 at void ones; without a graph."""
    return torch.cat(list(_losses(logits, labels, loss))).view(labels.shape)


class _StripLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor, loss: PixelLoss) -> torch.Tensor:
        gradient = torch.zeros_like(logits, memory_format=torch.contiguous_format)
        sums = [values.sum() for values in _losses(logits, labels, loss, gradient)]
        ctx.save_for_backward(gradient)
        return torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * slope, None, None


def _losses(
    logits: torch.Tensor, labels: torch.Tensor, loss: PixelLoss, gradient: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """The losses of the pixels, (rows, W) of each strip, image by image; adds their slopes to gradient: as logits."""
    found = []
    logits = logits.contiguous()
    with precise_products("cpu" if logits.is_meta else logits.device.type):  # there is no autocast for the meta device
        resize = StripResize.of(logits, (labels.shape[-2], labels.shape[-1]))
        for index in range(len(logits)):
            for rows in resize.rows:
                strip = resize.strip(logits[index], rows)
                total = None if gradient is None else gradient[index]
                found.append(_strip(strip, labels[index, rows.outputs], loss, resize, rows, total))
    return found


def _strip(
    logits: torch.Tensor,
    labels: torch.Tensor,
    loss: PixelLoss,
    resize: StripResize,
    rows: Block,
    total: torch.Tensor | None,
) -> torch.Tensor:
    """logits: (K, rows, W), overwritten; labels: (rows, W) -> (rows, W), losses; adds to total: (K, h, w) their slopes.

    With p the probabilities and y the label, the slope of a pixel's loss by its logits is
    pull (p - onehot_y) + smoothing / K (p sum(w) - w): pull is the slope by -ln p_y, w are the class weights.
    """
    valid = labels != loss.ignore_value
    target = labels.long().where(valid, 0)[None]
    spread, weights = loss.label_smoothing / len(logits), None
    # ln p = logits - ln(sum of exp(logits)), of which only the sums are kept.
    logits.sub_(logits.amax(0))
    surprise = -logits.gather(0, target)[0]
    if spread:
        weights = logits.new_ones(len(logits)) if loss.class_weights is None else loss.class_weights
        weighted = torch.einsum("k,khw->hw", weights, logits)
    parts = logits.exp_()
    whole = parts.sum(0)
    log_whole = whole.log()
    surprise += log_whole
    values, pull = _of_target(surprise, target[0], valid, loss)
    # Smoothing: a share of the loss is that of all classes alike.
    if weights is not None:
        values = values - spread * (weighted - weights.sum() * log_whole)
    if total is not None:
        push = pull if weights is None else pull + valid * (spread * weights.sum())
        slopes = parts.mul_(push / whole)
        slopes.scatter_(0, target, (push * torch.exp(-surprise) - pull)[None])
        if weights is not None:
            slopes.addcmul_(weights.view(-1, 1, 1), valid.to(slopes.dtype), value=-spread)
        resize.add_transposed(slopes, rows, total)
    return values.where(valid, 0.0)


def _of_target(
    surprise: torch.Tensor, target: torch.Tensor, valid: torch.Tensor, loss: PixelLoss
) -> tuple[torch.Tensor, torch.Tensor]:
    """surprise: (rows, W), -ln p of the label -> the part of the loss that is its alone, and its slope; 0 at void."""
    weights = valid.to(surprise.dtype)
    if loss.class_weights is not None:
        weights = weights * loss.class_weights[target]
    if not loss.focal_gamma:
        weights = weights * (1 - loss.label_smoothing)
        return weights * surprise, weights
    # expm1 and the floor as in `pixels.focal_loss`, whose slope is 0 below the floor.
    gamma, tiny = loss.focal_gamma, torch.finfo(surprise.dtype).tiny
    wrong = -torch.expm1(-surprise)
    above, wrong = wrong >= tiny, wrong.clamp(min=tiny)
    power = wrong**gamma
    slope = power + above * (gamma * wrong ** (gamma - 1) * torch.exp(-surprise) * surprise)
    return weights * power * surprise, weights * slope
