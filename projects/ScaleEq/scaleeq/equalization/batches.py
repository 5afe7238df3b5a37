"""What a loader of somebody else's data gives to a model, and what is said where it cannot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import nn

Batch = TypeVar("Batch")

IMAGE_KEYS = ("image", "pixel_values", "images", "input")


class InputOf:
    """batch -> the model's input: the batch, its first element, or the entry that is named as images are."""

    def __init__(self, model: nn.Module):
        floating = [p for p in model.parameters() if p.is_floating_point()]
        if not floating:
            raise ValueError("the model has no parameters")
        self.like = floating[0]

    def __call__(self, batch: object) -> torch.Tensor:
        found = batch
        if isinstance(batch, Mapping):
            found = next((batch[key] for key in IMAGE_KEYS if key in batch), None)
        elif isinstance(batch, (tuple, list)) and batch:
            found = batch[0]
        if not isinstance(found, torch.Tensor):
            keys = f" with {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
            raise ValueError(
                f"a batch is a {type(batch).__name__}{keys}, without an image tensor that could be recognized: give "
                "inputs, a function from a batch to what the model is called with"
            )
        return found.to(self.like.device, self.like.dtype if found.is_floating_point() else None)


def first_batch(loader: Iterable[Batch]) -> Batch:
    """The first batch of a loader that can be iterated again; ValueError for one that cannot, or that is empty."""
    if isinstance(loader, Iterator):
        raise ValueError("the loader can be iterated once only; give a DataLoader or a list, not an iterator")
    kinds = ("__iter__", "__getitem__")
    if isinstance(loader, (torch.Tensor, Mapping, str)) or not any(hasattr(type(loader), kind) for kind in kinds):
        raise ValueError(f"the loader is a {type(loader).__name__}; give a DataLoader, or a list of batches")
    for batch in loader:
        return batch
    raise ValueError("the calibration loader gave no batch")


def explained(error: Exception, model: nn.Module, x: object) -> ValueError:
    """What to say of a forward that failed on the first batch."""
    said = str(error).strip().split("\n")[0]
    message = f"the model's forward failed on the first batch ({type(error).__name__}: {said})"
    if not isinstance(x, torch.Tensor):
        return ValueError(
            f"{message}; it was called with a {type(x).__name__}, which is what `inputs` makes of a batch"
        )
    # What was wrong with the images.
    message += f"; it was called with {str(x.dtype).removeprefix('torch.')} images {tuple(x.shape)} on {x.device}"
    own = next(model.parameters())
    if not x.is_floating_point():
        return ValueError(
            f"{message}: give them as the model is trained, as floating point numbers and normalized, by "
            "inputs=lambda batch: ..."
        )
    if x.device != own.device or x.dtype != own.dtype:
        kind = str(own.dtype).removeprefix("torch.")
        return ValueError(f"{message}, but its weights are {kind} on {own.device}: let `inputs` bring them there")
    if x.dim() != 4:
        return ValueError(f"{message}: batches of images (N, C, H, W) are needed")
    return ValueError(f"{message}; give inputs, a function from a batch to what the model is called with")
