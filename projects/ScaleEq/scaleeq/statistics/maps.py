"""Gate and offset maps of a forward, for pictures (GSTO's figures of gates, FaPN's of offsets)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from ..fusion import Aligned
from ..layers import Gate, LogitsGate


@contextmanager
def capture_maps(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Collect the maps of every gate and every aligned transfer of `model` while its forwards run.

    Yields module name -> (N, 1, h, w) of a gate; "<name>.offset" (N, 2 * G * 9, H, W), pixels, and "<name>.mask"
    (N, G * 9, H, W) of an aligned transfer with G offset groups. Of the latest forward, detached.
    """
    maps: dict[str, torch.Tensor] = {}

    def keep_gate(name: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        maps[name] = output.detach()

    def keep_offsets(name: str, aligned: Aligned, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        maps[f"{name}.offset"], maps[f"{name}.mask"] = aligned.split(output.detach())

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (Gate, LogitsGate)):
            handles.append(module.map.register_forward_hook(partial(keep_gate, name)))
        elif isinstance(module, Aligned):
            handles.append(module.predictor.register_forward_hook(partial(keep_offsets, name, module)))
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
