"""When a convolution of resized maps is cheaper per branch: an estimate from sizes and widths alone.

Work is counted in multiply-adds of a large convolution. What else takes time is put in that unit by constants, fitted
to 24 fusions of UPerNet, U-Net, PSPNet, DPT, SegFormer and HRNet decoders, timed on one CPU thread in float32, in
inference and in training (the larger ratio of the two counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

LIMIT = 0.8  # a fusion is evaluated per branch where that takes at most this part of the plain time, as estimated

RESIZED = 190  # a number of a resized map
COPIED = 32  # a number of a concatenation
SUMMED = 71  # a number of a sum of two maps
ADDED = 92  # a number of the result, to which tiles are added
ORDERED = 45  # a weight, ordered tap by tap
SMALL_PRODUCT = 1.8  # a multiply-add in a product of few rows
BAND_PRODUCT = 2.3  # a multiply-add in a band of rows or columns
ROWS, COLUMNS = 64, 128  # of a tile (ops/resized_conv.py)


def cost_ratio(maps: Sequence[Sequence[int]], weight: Sequence[int], size: Sequence[int]) -> float:
    """Estimated time of the convolution per branch, divided by that of resizing, joining and convolving.

    maps: (N, C_i, h_i, w_i) of each branch. weight: (C_out, C_in, k, k). size: (H, W) of the result.
    """
    out, _, kernel, _ = weight
    images, pixels = maps[0][0], size[0] * size[1]
    taps = kernel * kernel
    small = [m for m in maps if tuple(m[2:]) != tuple(size)]
    full_channels = sum(m[1] for m in maps) - sum(m[1] for m in small)
    # As it is.
    channels = sum(m[1] for m in maps)
    plain = pixels * (channels * taps * out + sum(m[1] for m in small) * RESIZED)
    plain += pixels * channels * COPIED if len(maps) > 1 else 0
    # Per branch.
    branches: float = pixels * full_channels * taps * out
    branches += pixels * full_channels * COPIED if len(maps) - len(small) > 1 else 0
    for _, width, rows, columns in small:
        own = rows * columns * width * taps * out
        if kernel == 1:
            branches += own + pixels * out * (RESIZED + (SUMMED if len(maps) > 1 else 0))
        else:
            band_rows, band_columns = _band(rows, size[0], ROWS), _band(columns, size[1], COLUMNS)
            in_bands = size[0] * band_rows * kernel * columns * kernel * out + pixels * band_columns * kernel * out
            branches += SMALL_PRODUCT * own + BAND_PRODUCT * in_bands + prod((width, taps, out)) * ORDERED / images
    branches += pixels * out * ADDED if small and kernel > 1 else 0
    return branches / plain


def _band(inputs: int, outputs: int, tile: int) -> int:
    """How many inputs of one axis a tile of outputs reads, about."""
    return min(inputs, inputs * min(tile, outputs) // outputs + 2)
