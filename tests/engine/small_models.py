"""A model of two layers, and how its weights are compared; a small one of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn


def a_model(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, width, 1), nn.BatchNorm2d(width))


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


BASE = Path(__file__).parents[2] / "configs" / "Base.yaml"
TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.TIMM.NAME", "resnet18", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "8"),
    *("MODEL.AUX_HEAD.CONVS_DIM", "8", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "8"),
]


def segmentor(*options: Any) -> nn.Module:
    from scaleeq.engine import build_model, load_config

    return build_model(load_config(BASE, [*TINY, *options]))


def saved(model: nn.Module, folder: Path) -> str:
    torch.save({"model": model.state_dict()}, folder / "other.pth")
    return str(folder / "other.pth")
