"""Slow losses in numpy, pixel by pixel, written from their definitions; and the cases that the tests share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch


def make_case(
    void: float = 0.3, *, classes: int = 5, size: tuple[int, int, int] = (2, 8, 6), seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, classes, H, W), float64 with a gradient, and labels (N, H, W) with a share of void pixels."""
    generator = torch.Generator().manual_seed(seed)
    batch, height, width = size
    logits = 2 * torch.randn(batch, classes, height, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, size, generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < void] = 255
    return logits.requires_grad_(), labels


def labelled_pixels(logits: torch.Tensor, labels: torch.Tensor, ignore: int = 255) -> list[tuple[np.ndarray, int]]:
    """(class probabilities (K,), label) of each labelled pixel, in order."""
    scores = logits.detach().double().permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).numpy()
    exponentials = np.exp(scores - scores.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    return [(p, y) for p, y in zip(probabilities, labels.flatten().tolist(), strict=True) if y != ignore]


def mean_loss(
    pixels: list[tuple[np.ndarray, int]],
    *,
    weights: Sequence[float] | None = None,
    smoothing: float = 0.0,
    gamma: float = 0.0,
) -> float:
    """The weighted mean over pixels of -sum_k w_k t_k ln p_k (1 - p_y)^gamma, t the smoothed target."""
    total = count = 0.0
    for p, y in pixels:
        w = np.ones(len(p)) if weights is None else np.asarray(weights)
        target = np.full(len(p), smoothing / len(p))
        target[y] += 1 - smoothing
        total += -(w * target * np.log(p)).sum() * (1 - p[y]) ** gamma
        count += w[y]
    return total / count


def hardest_share(pixels: list[tuple[np.ndarray, int]], share: float, weights: Sequence[float]) -> list:
    """The share of the pixels with the highest weighted cross entropy."""
    ordered = sorted(pixels, key=lambda pixel: weights[pixel[1]] * math.log(pixel[0][pixel[1]]))
    return ordered[: len(pixels) - round((1 - share) * len(pixels))]


def improbable(pixels: list[tuple[np.ndarray, int]], threshold: float, min_kept: int) -> list:
    """The pixels below max(threshold, the min_kept-th lowest probability, from 0); all where there are fewer."""
    probabilities = sorted(p[y] for p, y in pixels)
    limit = max(threshold, probabilities[min_kept]) if min_kept < len(pixels) else math.inf
    return [(p, y) for p, y in pixels if p[y] < limit]


def dice(pixels: list[tuple[np.ndarray, int]]) -> float:
    losses = []
    for c in sorted({y for _, y in pixels}):
        overlap = sum(p[c] for p, y in pixels if y == c)
        size = sum(p[c] ** 2 for p, _ in pixels) + sum(1 for _, y in pixels if y == c)
        losses.append(1 - 2 * overlap / size)
    return sum(losses) / len(losses)


def lovasz(pixels: list[tuple[np.ndarray, int]]) -> float:
    """The Lovasz extension of the set function |wrong| / |labelled or wrong|: pixels turn wrong by decreasing error."""
    losses = []
    for c in sorted({y for _, y in pixels}):
        labelled = {i for i, (_, y) in enumerate(pixels) if y == c}
        errors = [1 - p[c] if y == c else p[c] for p, y in pixels]
        wrong: set[int] = set()
        value = before = 0.0
        for i in sorted(range(len(pixels)), key=lambda i: -errors[i]):
            wrong.add(i)
            after = len(wrong) / len(labelled | wrong)
            value += errors[i] * (after - before)
            before = after
        losses.append(value)
    return sum(losses) / len(losses)
