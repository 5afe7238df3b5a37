"""What a module may know about a feature map, and batch normalization over all processes that also runs on CPU.

Source: Detectron2's layers/shape_spec.py and layers/batch_norm.py. Deviations: of the norms only NaiveSyncBatchNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import comm


@dataclass
class ShapeSpec:
    """Channels, height and width in pixels, and stride (image pixels per pixel of the map); None: not known."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose batch is that of all processes; on one process, and in evaluation, BatchNorm2d itself.

    stats_mode "": every process counts the same, whatever its batch size or resolution; "N": a process counts with its
    number of images, which may be 0. The running variance is the biased one (torch's own is not).
    """

    def __init__(self, *args: Any, stats_mode: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if stats_mode not in ("", "N"):
            raise AssertionError(f"stats_mode is '' or 'N', not {stats_mode!r}")
        self._stats_mode = stats_mode

    def forward(self, input: Tensor) -> Tensor:
        """input: (N, C, H, W) -> the same shape and type; float16 is normalized in float32."""
        if comm.get_world_size() == 1 or not self.training:
            return super().forward(input)
        x = input.float() if input.dtype == torch.float16 else input
        mean, mean_square, momentum = self._global_moments(x)
        variance = mean_square - mean * mean
        scale = self.weight * torch.rsqrt(variance + self.eps)
        offset = self.bias - mean * scale
        assert self.running_mean is not None and self.running_var is not None
        self.running_mean += momentum * (mean.detach() - self.running_mean)
        self.running_var += momentum * (variance.detach() - self.running_var)
        output = x * scale.reshape(1, -1, 1, 1) + offset.reshape(1, -1, 1, 1)
        return output.half() if input.dtype == torch.float16 else output

    def _global_moments(self, x: Tensor) -> tuple[Tensor, Tensor, Any]:
        """x: (N, C, H, W) -> mean (C,), mean of squares (C,), and the momentum of this update."""
        from fvcore.nn.distributed import differentiable_all_reduce  # here: importing fvcore.nn makes torch warn

        num_images, channels = x.shape[:2]
        moments = torch.cat([x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3))])
        if self._stats_mode == "":
            if num_images == 0:
                raise AssertionError("NaiveSyncBatchNorm(stats_mode='') needs an image on every process; use 'N'")
            moments = differentiable_all_reduce(moments) * (1.0 / dist.get_world_size())
            mean, mean_square = moments.split(channels)
            return mean, mean_square, self.momentum
        if num_images == 0:
            # zeros that still depend on the input: its process takes part in the backward pass
            counted = moments.new_zeros(2 * channels + 1) + x.sum()
        else:
            counted = torch.cat([moments, moments.new_ones(1)])
        counted = differentiable_all_reduce(counted * num_images)
        total = counted[-1].detach()
        mean, mean_square, _ = (counted / total.clamp(min=1)).split(channels)
        # no images at all: momentum 0, nothing is updated
        return mean, mean_square, total.clamp(max=1) * self.momentum
