"""Maps of a forward, for pictures: GSTO's gates, FaPN's features before and after alignment, every fusion's branches.

A feature map is kept as the root mean square over its channels: its norm at each pixel, whatever its width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from scaleeq.equalization.calibration import fusions_of
from scaleeq.equalization.forwards import observed_by
from scaleeq.fusion import Aligned, Fusion, Observation
from scaleeq.layers import Gate, LogitsGate
from scaleeq.ops import resize
from scaleeq.ops.deform_conv import offsets_and_masks

Pair = tuple[torch.Tensor, torch.Tensor]  # a map and its reference


@contextmanager
def capture_maps(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Collect the maps of every gate and every aligned transfer of `model` while its forwards run.

    Yields module name -> (N, 1, h, w) of a gate; of an aligned transfer with G offset groups "<name>.offset"
    (N, 2 * G * 9, H, W), pixels, "<name>.mask" (N, G * 9, H, W), and the norms (N, 1, H, W) of the upsampled map
    "<name>.before" and of the aligned one, "<name>.after". Of the latest forward, detached.
    """
    maps: dict[str, torch.Tensor] = {}

    def keep_gate(name: str, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        maps[name] = output.detach()

    def keep_offsets(name: str, aligned: Aligned, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        maps[f"{name}.offset"], maps[f"{name}.mask"] = offsets_and_masks(output.detach(), aligned.groups)

    def keep_features(name: str, module: Aligned, inputs: Pair, output: torch.Tensor) -> None:
        x, reference = inputs
        maps[f"{name}.before"] = norm_map(resize(x, (reference.shape[-2], reference.shape[-1]), module.mode))
        maps[f"{name}.after"] = norm_map(output)

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, (Gate, LogitsGate)):
                hooks.enter_context(module.map.register_forward_hook(partial(keep_gate, name)))
            elif isinstance(module, Aligned):
                hooks.enter_context(module.predictor.register_forward_hook(partial(keep_offsets, name, module)))
                hooks.enter_context(module.register_forward_hook(partial(keep_features, name)))
        yield maps


@dataclass
class FusionMaps:
    """Norms (N, 1, h, w) of one Fusion: branch -> before and after its transfer, and of what it returns."""

    before: dict[str, torch.Tensor] = field(default_factory=dict)
    after: dict[str, torch.Tensor] = field(default_factory=dict)
    fused: torch.Tensor | None = None


@contextmanager
def capture_fusions(model: nn.Module) -> Iterator[dict[str, FusionMaps]]:
    """Collect the branches of every Fusion of `model` while its forwards run: name -> maps, of the latest forward.

    Branches are as they were before their equalizers.
    """
    fusions = fusions_of(model, equalized=False)
    maps: dict[str, FusionMaps] = {}

    def keep_branch(name: str, fusion: Fusion, seen: Observation) -> None:
        kept = maps.setdefault(name, FusionMaps())
        kept.before[seen.branch] = norm_map(seen.source * seen.scale + seen.offset)
        kept.after[seen.branch] = norm_map(seen.transferred * seen.scale + seen.offset)

    def keep_fused(name: str, module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        maps.setdefault(name, FusionMaps()).fused = norm_map(output)

    with ExitStack() as hooks:
        hooks.enter_context(observed_by({fusion: partial(keep_branch, name) for name, fusion in fusions.items()}))
        for name, fusion in fusions.items():
            hooks.enter_context(fusion.register_forward_hook(partial(keep_fused, name)))
        yield maps


def norm_map(x: torch.Tensor) -> torch.Tensor:
    """x: (N, C, H, W) -> (N, 1, H, W) float32, the root mean square over channels, detached."""
    return x.detach().float().square().mean(dim=1, keepdim=True).sqrt()
