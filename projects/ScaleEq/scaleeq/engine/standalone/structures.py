"""Images of several sizes as one padded batch.

Source: Detectron2's structures/image_list.py.
Deviations: no tracing or scripting; an image larger than "square_size" is refused (Detectron2 crops it without a word
when it is alone in its batch, and fails on the copy otherwise).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ImageList:
    """A batch that remembers the size of each of its images.

    tensor: (N, ..., H, W), padded at the right and at the bottom; image_sizes: (h, w) of each image before that.
    """

    def __init__(self, tensor: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensor = tensor
        self.image_sizes = image_sizes

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, idx: int) -> Tensor:
        """(..., h, w), image idx without its padding."""
        height, width = self.image_sizes[idx]
        return self.tensor[idx, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """The same images with tensor.to(*args, **kwargs)."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[Tensor],
        size_divisibility: int = 0,
        pad_value: float = 0.0,
        padding_constraints: dict[str, int] | None = None,
    ) -> ImageList:
        """tensors: (..., H_i, W_i) each, the leading sizes equal -> a batch of the largest height and width.

        These are rounded up to a multiple of size_divisibility (pixels; 0 and 1: not at all). padding_constraints
        may hold "size_divisibility", which wins over the argument, and "square_size", the side of a square instead.
        Raises AssertionError for no tensors, other objects, or leading sizes that differ.
        """
        _check(tensors)
        sizes = [(int(t.shape[-2]), int(t.shape[-1])) for t in tensors]
        height, width = (max(side) for side in zip(*sizes, strict=True))
        constraints = padding_constraints or {}
        square_px = constraints.get("square_size", 0)
        if square_px > 0:
            if max(height, width) > square_px:
                raise ValueError(f"square_size {square_px} is smaller than an image of {height}x{width} pixels")
            height = width = square_px
        divisor = constraints.get("size_divisibility", size_divisibility)
        if divisor > 1:
            height, width = (-(-side // divisor) * divisor for side in (height, width))
        batch = tensors[0].new_full((len(tensors), *tensors[0].shape[:-2], height, width), pad_value)
        for slot, tensor in zip(batch, tensors, strict=True):
            slot[..., : tensor.shape[-2], : tensor.shape[-1]].copy_(tensor)
        return ImageList(batch, sizes)


def _check(tensors: Sequence[Tensor]) -> None:
    if not isinstance(tensors, (tuple, list)) or not tensors:
        raise AssertionError(f"from_tensors wants a list of at least one tensor, not {tensors!r}")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise AssertionError(f"from_tensors wants tensors, not {type(tensor).__name__}")
        if tensor.shape[:-2] != tensors[0].shape[:-2]:
            shapes = [tuple(t.shape) for t in tensors]
            raise AssertionError(f"images of one batch differ in more than height and width: {shapes}")
