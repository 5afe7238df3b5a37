"""Sliding windows: their places, and the mean of what is predicted in them. Places are mmsegmentation 1.2.2's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .predicted import Maps, Predict


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows start along one side, pixels: a stride apart, the last one moved back to end at the border.

    A window that is larger than the side starts at 0.
    """
    last = max(0, size - window)
    return [*range(0, last, stride), last]


def window_counts(size: int, window: int, starts: Sequence[int]) -> torch.Tensor:
    """(size,), how many of the windows at `starts` cover each pixel of a side."""
    counts = torch.zeros(size)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def slide(
    image: torch.Tensor,
    predict: Predict,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    device: torch.device | None = None,
) -> torch.Tensor:
    """Logits of windows, averaged where they overlap.

    image: (3, H, W). predict: a window (3, h, w) -> (K, h, w). window, stride: (height, width), pixels; a window is cut
    to the image where the image is smaller. device: where they are added up; None: where predict leaves them.
    Returns (K, H, W) float32.
    """
    return slide_all(image, lambda view: {"": predict(view)}, window=window, stride=stride, device=device)[""]


def slide_all(
    image: torch.Tensor,
    predict: Callable[[torch.Tensor], Maps],
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    device: torch.device | None = None,
) -> Maps:
    """`slide` for several predictions of each window."""
    height, width = image.shape[-2:]
    tops, lefts = window_starts(height, window[0], stride[0]), window_starts(width, window[1], stride[1])
    totals: Maps = {}
    for top in tops:
        for left in lefts:
            place = (slice(None), slice(top, top + window[0]), slice(left, left + window[1]))
            for name, logits in predict(image[place]).items():
                if name not in totals:
                    totals[name] = torch.zeros(len(logits), height, width, device=device or logits.device)
                totals[name][place] += logits.to(totals[name].device)
    counts = torch.outer(window_counts(height, window[0], tops), window_counts(width, window[1], lefts))
    return {name: total.div_(counts.to(total.device)) for name, total in totals.items()}
