"""Measure what a pyramid and its equalizers cost Detectron2's Faster R-CNN (ResNet-50), as ratios to its own FPN.

A training step (forward, losses, backward) and the forward of backbone and pyramid, interleaved in one process, in CPU
time. Needs Detectron2; no weights: the frozen norms get constants that keep the maps' scale. Prints one JSON object.

Example: python -m evidence.benchmark_detection --rounds 9 --output docs/results/detection_cost.json
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from scaleeq import console

console.start()

import numpy as np
import torch
from torch import nn

import scaleeq
from scaleeq.detection import measured_part
from scaleeq.engine import FEATURES, build_model, load_config
from scaleeq.equalization.calibration import calibrate
from scaleeq.equalization.folding import fold_equalizers
from scaleeq.equalization.frozen import is_frozen_norm
from scaleeq.rewrites.plain_pyramid import fold_into_plain
from scaleeq.training.timing import quartiles

from .collected import command_line

FIRST = "Detectron2's FPN"


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=[128, 160], help="height and width of the images, pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--output", type=Path, help="a JSON file to write as well")
    arguments = parser.parse_args()
    if not FEATURES.detection:
        raise ValueError("the detectors are Detectron2's, which is not the engine here (docs/engine.md)")
    scaleeq.add_scaleeq_config(load_config(None))
    batch = pictures(arguments.batch, *arguments.size)
    models = variants(batch)
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in models} for kind in arguments.kinds}
    for number in range(arguments.rounds + 1):
        for name, model in models.items():
            for kind in arguments.kinds:
                seconds = cpu_seconds(KINDS[kind], model, batch)
                if number:  # the first round warms up
                    times[kind][name].append(seconds)
    result = {
        "command": command_line("benchmark_detection"),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        **{key: value for key, value in vars(arguments).items() if key in ("size", "batch", "rounds")},
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        **{f"{kind}_cpu": summary(of_kind) for kind, of_kind in times.items()},
    }
    text = json.dumps(result, indent=1)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    print(text)


def variants(batch: list[dict[str, Any]]) -> dict[str, nn.Module]:
    """Name -> detector; the equalized ones are calibrated on the batch."""
    models = {FIRST: built("coco/faster_rcnn_r50", stock=True), "FPN": built("coco/faster_rcnn_r50")}
    for title, overlay in (("FPN", ""), ("FaPN", "+fapn"), ("BiFPN", "+bifpn")):
        models.setdefault(title, built(f"coco/faster_rcnn_r50{overlay}"))
        equalized = built(f"coco/faster_rcnn_r50{overlay}+scale_equalizer")
        calibrate(measured_part(equalized), [batch], num_images=len(batch))
        models[f"{title}, equalized"] = equalized
        models[f"{title}, folded"] = fold_equalizers(equalized)
        if title != "BiFPN":
            models[f"{title}, folded into plain"] = fold_into_plain(equalized)
    return models


def built(name: str, *, stock: bool = False) -> nn.Module:
    """stock: on Detectron2's own FPN."""
    cfg = load_config(name, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    if stock:
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.FPN.IN_FEATURES = list(cfg.MODEL.RESNETS.OUT_FEATURES)
    torch.manual_seed(0)
    model = build_model(cfg)
    for module in model.modules():
        if is_frozen_norm(module):
            module.get_buffer("weight").fill_(0.5)
    return model.train()


def pictures(number: int, height: int, width: int) -> list[dict[str, Any]]:
    """Noise with two boxes each."""
    from detectron2.structures import Boxes, Instances

    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.95, 0.9]]) * torch.tensor([width, height, width, height])
    batch = []
    for _ in range(number):
        instances = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([3, 7]))
        image = torch.randint(0, 256, (3, height, width), generator=generator).float()
        batch.append({"image": image, "instances": instances})
    return batch


def step(model: nn.Module, batch: list[dict[str, Any]]) -> None:
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)
    np.random.seed(0)
    with EventStorage():
        sum(model(batch).values()).backward()
    model.zero_grad()


def forward(model: Any, batch: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        model.backbone(model.preprocess_image(batch).tensor)


def cpu_seconds(run: Callable[[nn.Module, list[dict[str, Any]]], None], model: nn.Module, batch: Any) -> float:
    started = time.process_time()
    run(model, batch)
    return time.process_time() - started


def summary(times: dict[str, list[float]]) -> dict[str, Any]:
    """Name -> median seconds, and the quartiles of the ratios to FIRST in the same round."""
    found = {}
    for name, seconds in times.items():
        ratios = [own / first for own, first in zip(seconds, times[FIRST], strict=True)]
        found[name] = {
            "seconds": round(median(seconds), 4),
            "ratio_quartiles": [round(r, 3) for r in quartiles(ratios)],
        }
    return found


KINDS = {"step": step, "forward": forward}

if __name__ == "__main__":
    console.run(main)
