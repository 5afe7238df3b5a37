"""Resizing of feature maps and logits.

All modes are linear, keep constants (their weights sum to one) and act on each channel alone; so they commute with 1x1
convolutions and with scale equalizers. Bilinear is the half-pixel form (align_corners False) of the field's decoders;
"bilinear_corners" (align_corners True) and "bicubic" are there to be compared with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from scaleeq.choices import one_of

INTERPOLATIONS: dict[str, tuple[str, bool | None]] = {  # name -> torch's mode and align_corners
    "bilinear": ("bilinear", False),
    "nearest": ("nearest", None),
    "bicubic": ("bicubic", False),
    "bilinear_corners": ("bilinear", True),
}
RESIZE_MODES = tuple(INTERPOLATIONS)


def resize(x: torch.Tensor, size: tuple[int, int], mode: str = "bilinear") -> torch.Tensor:
    """Resize maps to a size.

    Args:
        x: (N, C, H, W).
        size: (height, width) of the result, pixels.
        mode: one of RESIZE_MODES; ValueError otherwise.

    Returns:
        (N, C, *size); `x` itself where it has that size.
    """
    if mode not in RESIZE_MODES:  # one_of itself is nothing to be compiled into a model's forward
        one_of(mode, RESIZE_MODES, key="the mode of resize")
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    interpolation, align_corners = INTERPOLATIONS[mode]
    return F.interpolate(x, size=size, mode=interpolation, align_corners=align_corners)
