"""Run where scaleeq cannot be imported: stock models load a delivered checkpoint strictly, and say what they compute.

    python stock_models.py FILE OUT

FILE: {"kind", "state", "inputs"}; OUT: a list of what the stock model gives for each of the inputs. "fpn": Detectron2's
FPN; "fan": FaPN's released graph (arXiv 2108.07058), written in torch's and torchvision's modules with its released
names; "detector": Detectron2's Faster R-CNN, and the raw outputs of its RPN.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

sys.modules["scaleeq"] = None  # type: ignore[assignment]  # whoever imports it, installed or not, gets an ImportError


class Maps(nn.Module):
    """What stands for a bottom-up: features in, features out."""

    def __init__(self, widths: dict[str, int]) -> None:
        super().__init__()
        self.widths = widths

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return features


class Selection(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv_atten = nn.Conv2d(width, width, 1, bias=False)
        self.conv = nn.Conv2d(width, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        attention = self.conv_atten(F.avg_pool2d(x, x.shape[-2:])).sigmoid()
        return self.conv(x + x * attention)


class Deformable(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(channels))
        self.conv_offset_mask = nn.Conv2d(channels, 216, 3, padding=1)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        from torchvision.ops import deform_conv2d

        first, second, mask = self.conv_offset_mask(seen).chunk(3, 1)
        return deform_conv2d(x, torch.cat([first, second], 1), self.weight, self.bias, padding=1, mask=mask.sigmoid())


class Alignment(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.lateral_conv = Selection(width, channels)
        self.offset = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.dcpack_L2 = Deformable(channels)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        up = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
        selected = self.lateral_conv(fine)
        return self.dcpack_L2(up, self.offset(torch.cat([selected, up * 2], 1))).relu() + selected


class FAN(nn.Module):
    def __init__(self, widths: dict[str, int], channels: int) -> None:
        super().__init__()
        numbers = [int(level[3:]) for level in widths]
        for number, width in zip(numbers[:-1], widths.values(), strict=False):
            self.add_module(f"fan_align{number}", Alignment(width, channels))
            self.add_module(f"fpn_output{number}", nn.Conv2d(channels, channels, 3, padding=1))
        self.top = numbers[-1]
        self.add_module(f"fan_align{self.top}", nn.Conv2d(list(widths.values())[-1], channels, 1))
        self.numbers = numbers[:-1]

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        running = self.get_submodule(f"fan_align{self.top}")(features[f"res{self.top}"])
        results = {f"p{self.top}": running}
        for number in reversed(self.numbers):
            running = self.get_submodule(f"fan_align{number}")(features[f"res{number}"], running)
            results[f"p{number}"] = self.get_submodule(f"fpn_output{number}")(running)
        results[f"p{self.top + 1}"] = F.max_pool2d(results[f"p{self.top}"], 1, 2)
        return results


def detectron2s_fpn(widths: dict[str, int], channels: int, norm: str, top_block: str) -> nn.Module:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import FPN, Backbone
    from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

    class BottomUp(Maps, Backbone):
        def output_shape(self) -> dict[str, Any]:
            return {n: ShapeSpec(channels=w, stride=2 ** int(n[3:])) for n, w in self.widths.items()}

    extra = LastLevelMaxPool() if top_block == "max_pool" else LastLevelP6P7(widths["res5"], channels)
    return FPN(BottomUp(widths), list(widths), channels, norm=norm, top_block=extra)


def detector(keys: list[Any]) -> nn.Module:
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    cfg = get_cfg()
    cfg.merge_from_list(keys)
    return build_model(cfg)


def main() -> None:
    given = torch.load(sys.argv[1], weights_only=True)
    if given["kind"] == "detector":
        model = detector(given["keys"])
    elif given["kind"] == "fan":
        model = FAN(given["widths"], given["channels"])
    else:
        model = detectron2s_fpn(given["widths"], given["channels"], given["norm"], given["extra"])
    model.load_state_dict(given["state"])  # strict
    model.eval()
    results = []
    with torch.no_grad():
        for inputs in given["inputs"]:
            if given["kind"] == "detector":
                levels = model.backbone(inputs)
                raw = model.proposal_generator.rpn_head([levels[f] for f in ("p2", "p3", "p4", "p5", "p6")])
                results.append({f"{k}.{i}": x for k, maps in enumerate(raw) for i, x in enumerate(maps)})
            else:
                results.append(dict(model(inputs)))
    assert not [name for name, module in sys.modules.items() if name.startswith("scaleeq") and module is not None]
    torch.save(results, sys.argv[2])


main()
