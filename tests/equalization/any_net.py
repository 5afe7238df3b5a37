"""Somebody else's model, small: what the tests of `equalize` give it. It knows nothing of this project."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Sequential):
    """conv - norm - ReLU, as in every library."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True))


class AnyNet(nn.Module):
    """Two fusions in a row: a pooled map beside its source, then three maps of one size each."""

    def __init__(self):
        super().__init__()
        self.stem = Block(nn.Conv2d(3, 4, 3, padding=1))
        self.down = Block(nn.Conv2d(4, 5, 3, stride=2, padding=1))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), Block(nn.Conv2d(5, 3, 1)))
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.dropout = nn.Dropout2d(0.1)
        self.context = Block(nn.Conv2d(8, 6, 3, padding=1, bias=False))
        self.fuse = nn.ModuleDict({"conv": nn.Conv2d(4 + 6 + 5, 7, 1)})
        self.norm = nn.BatchNorm2d(7)
        self.classifier = nn.Conv2d(7, 2, 1)

    def maps(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """What each fusion reads."""
        fine = self.stem(x)
        coarse = self.down(fine)
        pooled = F.interpolate(self.pool(coarse), size=coarse.shape[2:], mode="bilinear", align_corners=False)
        context = torch.cat([coarse, pooled], dim=1)
        maps = [fine, self.up(self.context(context)), F.interpolate(coarse, scale_factor=2.0, mode="nearest")]
        return {"context.0": context, "fuse.conv": torch.cat(tensors=maps, dim=-3)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, 3, H, W) -> (N, 2, H, W)."""
        fused = self.fuse["conv"](self.dropout(self.maps(x)["fuse.conv"]).contiguous())
        return self.classifier(self.norm(fused).relu())


WIDTHS = {"context.0": (5, 3), "fuse.conv": (4, 6, 5)}


def make_net(seed: int = 0, **to) -> AnyNet:
    torch.manual_seed(seed)
    net = AnyNet().to(**({"dtype": torch.float64} | to))
    net.dropout.p = 0.0
    return net


def make_batches(count: int = 3, **to) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = [torch.rand(4, 3, 12, 16, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [(1 + index) * image.to(**to) for index, image in enumerate(images)]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, forward=None) -> None:
    """`steps` steps of a squared error with targets that depend on the step alone."""
    model.train()
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.rand(4, 3, 12, 16, generator=generator, dtype=torch.float64)
        target = torch.rand(4, 2, 12, 16, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        ((model if forward is None else forward)(x) - target).square().mean().backward()
        optimizer.step()
