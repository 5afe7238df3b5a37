"""What every backbone is: normalized images -> levels by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.layers import Level


class PlainBackbone(nn.Module):
    """Base of the backbones; they need no engine, and registered.py makes the engine's kind of them.

    size_divisibility, padding_constraints: what sizes of images it asks for, as Detectron2's say it; these take any.
    aux_loss_weights: name of the logits that it makes beside its levels, in training -> weight of their loss.
    """

    size_divisibility: int = 0
    padding_constraints: dict[str, int] = {}  # noqa: RUF012 (as Detectron2's: nobody writes to it)
    aux_loss_weights: Mapping[str, float] = {}

    def forward(self, image: torch.Tensor) -> dict[str, Any]:
        """image: (N, C, H, W), normalized -> level -> (N, C_level, H / stride, W / stride)."""
        raise NotImplementedError

    @staticmethod
    def padded(image: torch.Tensor, multiple: int) -> torch.Tensor:
        """image: (N, C, H, W) -> the same with zeros at bottom and right, up to a multiple of so many pixels."""
        height, width = image.shape[-2:]
        if height % multiple or width % multiple:
            return F.pad(image, (0, -width % multiple, 0, -height % multiple))
        return image

    @staticmethod
    def cropped(feature: torch.Tensor, image: torch.Tensor, stride: int) -> torch.Tensor:
        """feature: of an image (N, C, H, W) that was padded -> (N, C', ceil(H / stride), ceil(W / stride))."""
        height, width = image.shape[-2:]
        # In whole numbers, which an exported graph has, too.
        return feature[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride].contiguous()

    def levels(self) -> dict[str, Level]:
        """Level name -> channels and stride."""
        raise NotImplementedError

    def keep_levels(self, levels: Collection[str]) -> None:
        """Drop what only makes other levels than these: weights that nobody reads would get no gradient."""
