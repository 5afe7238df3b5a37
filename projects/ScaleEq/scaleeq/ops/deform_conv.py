"""Modulated deformable convolution (DCNv2, arXiv 1811.11168) with torchvision's layout of offsets, 3x3, same padding.

torchvision's operator is used where it is fast (CUDA). Its CPU kernels are slow and know no bfloat16, so there the same
sums are computed from one bilinear sampling per tap and one matrix product per tap; tests compare the two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

TAPS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))  # of a 3x3 kernel, row-major


def deform_conv3x3(
    x: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """A 3x3 convolution that samples `x` at shifted places; outside of the map `x` is zero.

    Args:
        x: (N, C, H, W).
        offset: (N, 2 * G * 9, H, W), pixels; group-major, then taps row-major, then (dy, dx).
        mask: (N, G * 9, H, W), factors; group-major, then taps. G groups of C / G channels have offsets of their own.
        weight: (C_out, C, 3, 3).
        bias: (C_out,).

    Returns:
        (N, C_out, H, W), float32 or float64: half precisions are computed in float32.
    """
    with torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False):  # there is none for the meta device
        if x.dtype != torch.float64:
            x, offset, mask, weight = (tensor.float() for tensor in (x, offset, mask, weight))
            bias = None if bias is None else bias.float()
        if x.device.type == "cpu":
            return sampled_deform_conv3x3(x, offset, mask, weight, bias)
        from torchvision.ops import deform_conv2d  # takes a second, and torch's compiler with it

        return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)


def offsets_and_masks(predicted: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two offsets and one mask for each tap of each group, as one convolution predicts them.

    predicted: (N, 3 * G * 9, H, W) -> offsets (N, 2 * G * 9, H, W), pixels, and masks (N, G * 9, H, W), in 0..1.
    """
    split = 2 * groups * len(TAPS)
    return predicted[:, :split], predicted[:, split:].sigmoid()


def sampled_deform_conv3x3(
    x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """deform_conv3x3 from `grid_sample`; any device and precision that has it."""
    # Groups of channels share offsets: each becomes a sample of its own.
    n, channels, height, width = x.shape
    groups = mask.shape[1] // len(TAPS)
    grouped = x.reshape(n * groups, channels // groups, height, width)
    offsets = offset.reshape(n * groups, len(TAPS), 2, height, width)
    masks = mask.reshape(n * groups, len(TAPS), 1, height, width)
    # The places that an ordinary convolution reads.
    rows = torch.arange(height, device=x.device, dtype=x.dtype).view(1, height, 1)
    columns = torch.arange(width, device=x.device, dtype=x.dtype).view(1, 1, width)
    total: torch.Tensor | None = None
    for tap, (dy, dx) in enumerate(TAPS):
        y = rows + dy + offsets[:, tap, 0]
        z = columns + dx + offsets[:, tap, 1]
        # Pixels to grid_sample's -1..1, where -1 is the outer edge of the first pixel.
        grid = torch.stack(((2 * z + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
        sampled = F.grid_sample(grouped, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        sampled = (sampled * masks[:, tap]).reshape(n, channels, height * width)
        # This tap's part of the convolution, as a 1x1.
        product = torch.matmul(weight[:, :, tap // 3, tap % 3], sampled)
        total = product if total is None else total + product
    assert total is not None
    result = total.view(n, -1, height, width)
    return result if bias is None else result + bias.view(1, -1, 1, 1)
