"""Losses and labels of upsampled logits: torch's own operations, mmsegmentation's loss, and ours in strips."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from scaleeq.ops import resized_argmax
from scaleeq.tasks.losses.segmentation import SegmentationLoss

from . import peers
from .heads import MMSEG, OURS, Goals, Setting
from .rounds import Contender

VOID = 255
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(setting: Setting, *, classes: int, image: int, batch: int, goals: Goals) -> list[Contender]:
    """Forward and backward of a cross entropy at the labels' size, of logits of a quarter of it."""
    generator = torch.Generator().manual_seed(0)
    image = image // setting.shrink
    logits = torch.randn(batch, classes, image // 4, image // 4, generator=generator).to(setting.device)
    labels = torch.randint(classes, (batch, image, image), generator=generator)
    labels[:, : image // 8] = VOID
    labels = labels.to(setting.device)
    own, peer = SegmentationLoss(ignore_value=VOID).to(setting.device), peers.mmseg_loss()
    losses: dict[str, Loss] = {"torch": lambda x, y: F.cross_entropy(_resized(x, image), y, ignore_index=VOID)}
    if peer is not None:
        losses[MMSEG] = lambda x, y: peer(_resized(x, image), y, ignore_index=VOID)
    losses[OURS] = lambda x, y: own(x, y)

    def turn(loss: Loss) -> torch.Tensor:
        """The loss's gradient, (N, K, h, w)."""
        x = logits.detach().requires_grad_()
        loss(x, labels).backward()
        assert x.grad is not None
        return x.grad

    return [
        Contender(
            name,
            lambda loss=loss: turn(loss),  # type: ignore[misc]
            output=lambda loss=loss: turn(loss),  # type: ignore[misc]
            goal=goals.get(name, (None, None)),
        )
        for name, loss in losses.items()
    ]


def arg_max(setting: Setting, *, classes: int, size: tuple[int, int], goals: Goals) -> list[Contender]:
    """The labels of an image, of logits of a quarter of its size."""
    height, width = (side // setting.shrink for side in size)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(classes, -(-height // 4), -(-width // 4), generator=generator).to(setting.device)

    def resized(maps: torch.Tensor) -> torch.Tensor:
        return F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]

    def whole() -> torch.Tensor:
        return resized(logits).max(0)[1]

    def in_strips() -> torch.Tensor:
        return resized_argmax(logits, resized).labels

    turns = {"torch": whole, OURS: in_strips}
    return [Contender(name, turn, output=turn, goal=goals.get(name, (None, None))) for name, turn in turns.items()]


def _resized(x: torch.Tensor, image: int) -> torch.Tensor:
    return F.interpolate(x, size=(image, image), mode="bilinear", align_corners=False)
