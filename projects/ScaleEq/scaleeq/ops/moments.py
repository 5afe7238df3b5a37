"""Mean and squared deviations of the channels of a map: float32 sums of a few thousand numbers, added in float64."""

from __future__ import annotations

import torch

ROW = 4096  # numbers of one sum in the map's precision: such a sum has the rounding of a few additions


def channel_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x: (N, C, H, W) -> mean (C,) and sum of squared deviations from it (C,), float64, on the CPU.

    Of float32 maps the standard deviation is known to about 1e-7 of itself, and the mean to 1e-7 of the larger of the
    two; a constant has exactly none.
    """
    precise = torch.float64 if x.dtype == torch.float64 else torch.float32
    num_rows = max(1, ROW // x.shape[3])
    # An image at a time on a CPU: what is subtracted from stays in the cache.
    pieces = [piece for part in (x.split(1) if x.device.type == "cpu" else (x,)) for piece in part.split(num_rows, 2)]
    count = x.numel() // x.shape[1]
    # Both sums are of small numbers: around one of the map's own, then around the mean.
    start = x[0, :, 0, 0].to(precise)
    sums = torch.cat([(piece.to(precise) - start.view(-1, 1, 1)).sum((2, 3)) for piece in pieces])
    mean = start.double() + sums.double().sum(0) / count
    center = mean.to(precise)
    deviations = [(piece.to(precise) - center.view(-1, 1, 1)).square_().sum((2, 3)) for piece in pieces]
    squares = torch.cat(deviations).double().sum(0) - count * (mean - center.double()).square()
    return mean.cpu(), squares.clamp_(min=0).cpu()
