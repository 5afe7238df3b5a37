"""Measure what accelerate does to whole models, as ratios to their own plain forwards; prints one JSON object.

Example: python -m evidence.benchmark_accelerate --size 512 --batch 1 --rounds 9 --output docs/results/accelerate.json
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

from scaleeq import console

console.start()

import torch
from torch import nn

from scaleeq.rewrites import accelerate, acceleration_report


def _transformers(backbone: str) -> nn.Module:
    import transformers

    stages: Any = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    config = transformers.SwinConfig(**stages) if backbone == "swin" else transformers.ConvNextConfig(**stages)
    return transformers.UperNetForSemanticSegmentation(transformers.UperNetConfig(backbone_config=config))


def _smp(name: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    return getattr(smp, name)("resnet50", encoder_weights=None, classes=150)


def _torchvision(name: str) -> nn.Module:
    from torchvision.models import segmentation

    return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=150)


def _segformer() -> nn.Module:
    import transformers

    options: Any = {"num_labels": 150}  # of every config, which its signature does not say
    return transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**options))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformers UperNet Swin-T": lambda: _transformers("swin"),
    "transformers UperNet ConvNeXt-T": lambda: _transformers("convnext"),
    "transformers SegFormer-B0": _segformer,
    **{f"smp {name} R50": lambda name=name: _smp(name) for name in ("UPerNet", "Unet", "FPN", "PAN", "PSPNet")},  # type: ignore[misc]
    "smp DeepLabV3Plus R50": lambda: _smp("DeepLabV3Plus"),
    "torchvision DeepLabV3 R50": lambda: _torchvision("deeplabv3_resnet50"),
    "torchvision FCN R50": lambda: _torchvision("fcn_resnet50"),
}


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="NAME")
    parser.add_argument("--size", type=int, default=512, help="pixels of the square images")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="a JSON file to write as well")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {"torch": torch.__version__, **{k: v for k, v in vars(arguments).items() if k != "output"}}
    result["models"] = {name: _measured(MODELS[name](), arguments) for name in arguments.models}
    text = json.dumps(result, indent=1)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    print(text)


def _measured(model: nn.Module, arguments: Any) -> dict[str, Any]:
    twin = accelerate(copy.deepcopy(model))
    x = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    result: dict[str, Any] = {}
    for kind, run in (("inference", _infer), ("training", _train)):
        for m in (model, twin):
            m.train(kind == "training")
            run(m, x), run(m, x)  # warms up; the first is looked at
        rows = [(run(model, x), run(twin, x)) for _ in range(arguments.rounds)]
        for clock, name in enumerate(("cpu", "wall")):
            ratios = [own[clock] / plain[clock] for plain, own in rows]
            result[f"{kind}_{name}_ratio_quartiles"] = quantiles(ratios, n=4) if len(ratios) > 1 else ratios
            result[f"{kind}_{name}_plain_s"] = sorted(plain[clock] for plain, _ in rows)[len(rows) // 2]
    return {**result, "report": str(acceleration_report(twin)).splitlines()}


def _infer(model: nn.Module, x: torch.Tensor) -> tuple[float, float]:
    started = time.process_time(), time.perf_counter()
    with torch.inference_mode():
        model(x)
    return time.process_time() - started[0], time.perf_counter() - started[1]


def _train(model: nn.Module, x: torch.Tensor) -> tuple[float, float]:
    started = time.process_time(), time.perf_counter()
    out = model(x)
    out = out if isinstance(out, torch.Tensor) else out["out" if "out" in out else "logits"]
    out.square().mean().backward()
    model.zero_grad()
    return time.process_time() - started[0], time.perf_counter() - started[1]


if __name__ == "__main__":
    console.run(main)
