"""The pooling of BiFPN (arXiv 1911.09070), padded as in its TensorFlow original."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def pool_half(x: torch.Tensor, kind: str) -> torch.Tensor:
    """3x3 pooling of stride 2, in which padding never counts.

    Args:
        x: (N, C, H, W).
        kind: "max" or "avg".

    Returns:
        (N, C, ceil(H / 2), ceil(W / 2)).
    """
    # TensorFlow's "same": the odd pixel of padding lies after the map.
    (top, bottom), (left, right) = (((size % 2), 1) for size in x.shape[-2:])
    padding = (left, right, top, bottom)
    if kind == "max":
        return F.max_pool2d(F.pad(x, padding, value=float("-inf")), 3, stride=2)
    # The mean of the pixels that are there.
    ones = F.pad(x.new_ones(1, 1, *x.shape[-2:]), padding)
    return F.avg_pool2d(F.pad(x, padding), 3, stride=2) / F.avg_pool2d(ones, 3, stride=2)
