"""Gradients of the weights that consume a fusion's branches, and equalizers that make them equal (STATISTIC "grad").

An extension, not the paper: its proposition is about the gradient of the output, where the ratio of gradients is the
ratio of stds; that of the loss also depends on how smooth the maps are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import nn

from scaleeq.fusion import Fusion
from scaleeq.layers import per_weight

from .forwards import Gather
from .implementations import consumer_of
from .mode import measuring

Batch = TypeVar("Batch")

BATCHES, ROUNDS = 8, 4


def branch_rms(fusion: Fusion, values: torch.Tensor) -> torch.Tensor:
    """(branches,), float64: root mean square of each branch's part of what a concatenation's convolution has.

    values: (C_out, C_in / groups, k, k), like fusion.mix.consumer.weight: its gradient, its change, itself.
    """
    conv = consumer_of(fusion)
    widths = list(fusion.widths.values())
    # Which branch each input channel is of.
    owner = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths)).to(values.device)
    squares = values.detach().double().square().sum((2, 3))
    owners = per_weight(conv, owner)[..., 0, 0].expand_as(squares)
    # Sums and counts of each branch.
    totals = torch.zeros(len(widths), dtype=torch.float64, device=values.device)
    totals.index_add_(0, owners.flatten(), squares.flatten())
    counts = torch.bincount(owners.flatten(), minlength=len(widths)) * values[0, 0].numel()
    return totals.div(counts).sqrt()


def training_loss(model: nn.Module) -> Callable[[Any], torch.Tensor]:
    """batch -> the sum of the losses that a model in training mode returns by name, as a segmentor does."""

    def loss(batch: object) -> torch.Tensor:
        losses = model(batch)
        if not isinstance(losses, Mapping):
            raise ValueError(
                f"in training {type(model).__name__} returns {type(losses).__name__}, not losses by name; give "
                "calibrate(..., loss=...) a function of a batch"
            )
        return torch.stack(list(losses.values())).sum()

    return loss


def balance_gradients(
    model: nn.Module,
    fusions: Mapping[str, Fusion],
    loader: Iterable[Batch],
    *,
    loss: Callable[[Batch], torch.Tensor],
    gather: Gather,
) -> None:
    """Change the stds of calibrated fusions until the gradients of their branches' weights have one size.

    In rounds over the same few batches: a std's change is exact for the gradients as they are, but also changes them.
    """
    for _ in range(ROUNDS):
        squares = {name: torch.zeros(len(fusion.branches), dtype=torch.float64) for name, fusion in fusions.items()}
        # Gradients of the weights, over the same batches.
        weights = [consumer_of(fusion).weight for fusion in fusions.values()]
        with measuring(model), torch.enable_grad():
            model.train()
            for batch in islice(loader, BATCHES):
                gradients = torch.autograd.grad(loss(batch), weights)
                for (name, fusion), gradient in zip(fusions.items(), gradients, strict=True):
                    squares[name] += branch_rms(fusion, gradient).square().cpu()
        # Stds in proportion to them: a larger std makes its branch's gradient smaller.
        for name, fusion in fusions.items():
            logs = torch.stack(gather(squares[name])).sum(0).log() / 2
            if not torch.isfinite(logs).all():
                raise ValueError(f"a branch of fusion {name!r} has no gradient; STATISTIC 'grad' cannot equalize it")
            for equalizer, factor in zip(fusion.equalizer_of.values(), (logs - logs.mean()).exp(), strict=True):
                std = equalizer.std.double() * factor.to(equalizer.std.device)
                equalizer.set_statistics(equalizer.mean, std, int(equalizer.num_images))
