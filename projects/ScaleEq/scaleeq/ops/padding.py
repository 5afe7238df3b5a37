"""Images of several sizes as one batch, padded with zeros at the right and the bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from .send import send


class Images(NamedTuple):
    """tensor: (N, C, H, W), padded at the right and the bottom; image_sizes: (h, w) of each image before that."""

    tensor: torch.Tensor
    image_sizes: list[tuple[int, int]]

    @property
    def shares(self) -> torch.Tensor | None:
        """(N, 2), the part of height and width of each image that is not padding; None: all of every one."""
        shares = torch.tensor(self.image_sizes) / torch.tensor(self.tensor.shape[-2:])
        return None if bool((shares == 1).all()) else shares


def padded_size(
    sizes: Sequence[Sequence[int]], divisibility: int = 0, constraints: Mapping[str, int] | None = None
) -> tuple[int, int]:
    """(height, width) of a batch of images of these sizes, in pixels, as Detectron2's ImageList has it.

    Args:
        divisibility: what both are rounded up to a multiple of; 0 and 1: not at all.
        constraints: of a backbone: "size_divisibility", which goes before, and "square_size", the side of a square.

    ValueError: an image larger than the square.
    """
    constraints = constraints or {}
    height, width = (max(side) for side in zip(*sizes, strict=True))
    square_px = constraints.get("square_size", 0)
    if square_px > 0:
        if max(height, width) > square_px:
            raise ValueError(f"square_size {square_px} is smaller than an image of {height}x{width} pixels")
        height = width = square_px
    divisor = max(constraints.get("size_divisibility", divisibility), 1)
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def padded(images: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
    """images: (C, h, w) each -> (N, C, H, W) of the size, with zeros at the right and the bottom."""
    height, width = size
    return torch.stack([F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in images])


class AsksForSizes(Protocol):
    """What a backbone says of the sizes of images, as Detectron2's do."""

    @property
    def size_divisibility(self) -> int: ...
    @property
    def padding_constraints(self) -> dict[str, int]: ...


def normalized(images: Sequence[torch.Tensor], mean: torch.Tensor, std: torch.Tensor, backbone: AsksForSizes) -> Images:
    """One batch, on the device of `mean`, with zeros at the right and the bottom where images are smaller.

    Args:
        images: (C, h, w) each.
        mean, std: (C, 1, 1), in units of the images.
        backbone: asks for the sizes.
    """
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    size = padded_size(sizes, backbone.size_divisibility, backbone.padding_constraints)
    return Images(padded([(send(image, mean.device) - mean) / std for image in images], size), sizes)
