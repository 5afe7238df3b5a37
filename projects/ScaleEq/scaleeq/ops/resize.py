"""Resizing of feature maps and logits.

Both modes are linear, keep constants (their weights sum to one) and act on each channel alone; so they commute with 1x1
convolutions and with scale equalizers. Bilinear is the half-pixel form (align_corners False) of the field's decoders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

RESIZE_MODES = ("bilinear", "nearest")


def resize(x: torch.Tensor, size: tuple[int, int], mode: str = "bilinear") -> torch.Tensor:
    """Resize maps to a size.

    Args:
        x: (N, C, H, W).
        size: (height, width) of the result, pixels.
        mode: one of RESIZE_MODES; ValueError otherwise.

    Returns:
        (N, C, *size); `x` itself where it has that size.
    """
    if mode not in RESIZE_MODES:
        raise ValueError(f"resize: mode {mode!r} is unknown; choose one of {', '.join(RESIZE_MODES)}")
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)
