"""Normalisation layers that the decoders share.

`BatchNorm2d` is torch's, with one deviation: a map that holds a single value per channel (a batch of one image after a
global pool) has no batch statistics, so torch refuses to train on it. Here such a map is normalised by the running
statistics, which it leaves as they are; weight and bias train as usual. So the 1x1 map of a pyramid pooling module
trains at batch size 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

NormFactory = Callable[[int], nn.Module]

NORMS = ("", "BN", "GN", "LN")


class BatchNorm2d(nn.BatchNorm2d):
    """torch.nn.BatchNorm2d (same parameters, buffers and numbers) that also trains on one value per channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        if self.training and self.running_mean is not None and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def batch_norm(channels: int) -> nn.Module:
    """The default normalisation: BatchNorm2d of `channels`."""
    return BatchNorm2d(channels)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def normalizes_channels(norm: nn.Module) -> bool:
    """Whether a norm gives each channel a scale of its own, whatever scale it had (in training)."""
    if isinstance(norm, nn.GroupNorm):
        return norm.num_groups == norm.num_channels
    return isinstance(norm, nn.modules.batchnorm._NormBase)


def _group_norm(channels: int) -> nn.Module:
    groups = 32
    if channels % groups:
        raise ValueError(
            f"NORM 'GN' has {groups} groups, which do not divide {channels} channels; use 'BN' or other channels "
            "(MODEL.SEM_SEG_HEAD.NORM, MODEL.PYRAMID.NORM, and the widths beside them)"
        )
    return nn.GroupNorm(groups, channels)


def norm_factory(name: str) -> NormFactory | None:
    """The factory (channels -> module) behind a NORM key; None for "". ValueError for a name outside NORMS."""
    factories: dict[str, NormFactory | None] = {"": None, "BN": batch_norm, "GN": _group_norm, "LN": ChannelLayerNorm}
    if name not in factories:
        raise ValueError(f"NORM {name!r} is unknown; choose one of {', '.join(map(repr, NORMS))} or 'SyncBN'")
    return factories[name]


def replace_batch_norms(module: nn.Module, norm: NormFactory) -> None:
    """Exchange each BatchNorm2d inside `module` for a `norm` with the same tensors, eps and momentum, in place."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) and type(child) in (nn.BatchNorm2d, BatchNorm2d):
                # The same tensors, not copies: an optimizer may hold them.
                replacement: Any = norm(child.num_features)
                replacement.eps, replacement.momentum = child.eps, child.momentum
                for tensor, value in [*child.named_parameters(), *child.named_buffers()]:
                    setattr(replacement, tensor, value)
                setattr(parent, name, replacement.train(child.training))
