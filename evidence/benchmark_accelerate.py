"""Measure what accelerate does to whole models, as ratios to their own plain forwards, and print one line for each.

    python -m evidence.benchmark_accelerate --size 256 --batch 2 --rounds 5 --output docs/results/accelerate.json
    python -m evidence.benchmark_accelerate --models "smp UPerNet R50" "smp FPN R50" --size 512 --kinds inference
    python -m evidence.tables                                     writes the table of docs/accelerate.md from it

Random weights and images; the backbone is part of the time. A model whose library is not installed is told as such. A
file that is there keeps what is not measured. Two images at least for training: batch norms of a pooled map of one cell
need them. How mmsegmentation is made importable: evidence/decoder_speed/peers.py.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaleeq import console

console.start()

import torch
from torch import nn

from scaleeq.files import write_json
from scaleeq.rewrites import accelerate, acceleration_report
from scaleeq.training.timing import quartiles

from .collected import command_line
from .counting_speed.record import machine
from .decoder_speed.peers import module_of
from .decoder_speed.rounds import TOLERANCE

CLASSES = 150


def _transformers(kind: str, backbone: str = "") -> nn.Module:
    library = _library("transformers")
    if kind == "UperNet":
        options = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
        of = (
            library.SwinConfig(**options)
            if backbone == "swin"
            else library.ConvNextConfig(**options, hidden_sizes=[96, 192, 384, 768])
        )
        return library.UperNetForSemanticSegmentation(library.UperNetConfig(backbone_config=of, num_labels=CLASSES))
    if kind == "SegFormer":
        return library.SegformerForSemanticSegmentation(library.SegformerConfig(num_labels=CLASSES))
    small = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}  # of ViT-S
    config = library.DPTConfig(backbone_out_indices=[2, 5, 8, 11], is_hybrid=False, num_labels=CLASSES, **small)
    return library.DPTForSemanticSegmentation(config)


def _smp(name: str) -> nn.Module:
    library = _library("segmentation_models_pytorch")
    return getattr(library, name)("resnet50", encoder_weights=None, classes=CLASSES)


def _torchvision(name: str) -> nn.Module:
    library = _library("torchvision.models.segmentation")
    return getattr(library, name)(weights=None, weights_backbone=None, num_classes=CLASSES)


def _mmsegmentation() -> nn.Module:
    """Its upernet_r50, without the auxiliary head."""
    norm = {"type": "BN"}
    backbone = {
        **{"type": "ResNetV1c", "depth": 50, "num_stages": 4, "out_indices": (0, 1, 2, 3), "norm_cfg": norm},
        **{"dilations": (1, 1, 1, 1), "strides": (1, 2, 2, 2), "contract_dilation": True, "style": "pytorch"},
    }
    head = {
        **{"type": "UPerHead", "in_channels": [256, 512, 1024, 2048], "in_index": [0, 1, 2, 3], "channels": 512},
        **{"pool_scales": (1, 2, 3, 6), "num_classes": CLASSES, "norm_cfg": norm, "align_corners": False},
    }
    return _library("mmseg.models").EncoderDecoder(backbone=backbone, decode_head=head)


def _library(name: str) -> Any:
    library = module_of(name)
    if library is None:
        raise ImportError(f"{name.partition('.')[0]} is not installed")
    return library


MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformers UperNet Swin-T": lambda: _transformers("UperNet", "swin"),
    "transformers UperNet ConvNeXt-T": lambda: _transformers("UperNet", "convnext"),
    "smp UPerNet R50": lambda: _smp("UPerNet"),
    "mmsegmentation UPerHead R50": _mmsegmentation,
    "transformers SegFormer-B0": lambda: _transformers("SegFormer"),
    "transformers DPT ViT-S": lambda: _transformers("DPT"),
    **{f"smp {name} R50": lambda name=name: _smp(name) for name in ("Unet", "FPN", "PAN", "PSPNet", "DeepLabV3Plus")},  # type: ignore[misc]
    "torchvision DeepLabV3 R50": lambda: _torchvision("deeplabv3_resnet50"),
    "torchvision FCN R50": lambda: _torchvision("fcn_resnet50"),
}
IMAGE_SIZES = {"transformers DPT ViT-S": 384}  # of position embeddings that are of one size
KINDS = ("inference", "training")


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="NAME")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--size", type=int, default=256, help="pixels of the square images (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="a JSON file; what it has of other models stays")
    arguments = parser.parse_args()
    if "training" in arguments.kinds and arguments.batch < 2:
        parser.error("--batch is at least 2 for training; --kinds inference takes one image")
    torch.set_num_threads(arguments.threads)
    record: dict[str, Any] = {"runs": []}
    if arguments.output and arguments.output.is_file():
        record = json.loads(arguments.output.read_text())
    for name in arguments.models:
        result = _told(name, arguments)
        print(name, json.dumps(result), flush=True)
        _keep(record["runs"], name, result, arguments)
        if arguments.output:
            write_json(arguments.output, record)


def _keep(runs: list[dict[str, Any]], name: str, result: dict[str, Any], arguments: Any) -> None:
    """Put a model's result into the run of its size and batch, which is made where there is none."""
    same = [run for run in runs if (run["size"], run["batch"]) == (arguments.size, arguments.batch)]
    if not same:
        same = [{"size": arguments.size, "batch": arguments.batch, "models": {}}]
        runs += same
    models = same[0]["models"]
    models[name] = {**models.get(name, {}), **result}
    same[0]["models"] = {each: models[each] for each in MODELS if each in models}


def _told(name: str, arguments: Any) -> dict[str, Any]:
    load = os.getloadavg()[0]
    torch.manual_seed(0)
    try:
        model = MODELS[name]()
    except ImportError as error:
        return {"skipped": str(error)}
    return {
        **_measured(model, arguments, IMAGE_SIZES.get(name, arguments.size)),
        "command": command_line("benchmark_accelerate"),
        **{"torch": torch.__version__, "threads": arguments.threads, "rounds": arguments.rounds},
        "machine": machine([load, os.getloadavg()[0]]),
    }


def _measured(model: nn.Module, arguments: Any, size: int) -> dict[str, Any]:
    twin = accelerate(copy.deepcopy(model))
    x = torch.randn(arguments.batch, 3, size, size)
    result: dict[str, Any] = {"pixels": size}
    for kind in arguments.kinds:
        run = _infer if kind == "inference" else _train
        for each in (model, twin):
            each.train(kind == "training")
            run(each, x), run(each, x)  # warms up; the first is looked at
        if kind == "inference":
            result["difference"] = _difference(model, twin, x)
        rows = [(run(model, x), run(twin, x)) for _ in range(arguments.rounds)]
        for clock, name in enumerate(("cpu", "wall")):
            result[f"{kind}_{name}_ratio_quartiles"] = quartiles([own[clock] / plain[clock] for plain, own in rows])
            result[f"{kind}_{name}_plain_s"] = sorted(plain[clock] for plain, _ in rows)[len(rows) // 2]
    report = acceleration_report(twin)
    result["fusions"] = sum(fusion.pays for fusion in report.fusions.values())
    return {**result, "report": str(report).splitlines()}


def _difference(model: nn.Module, twin: nn.Module, x: torch.Tensor) -> float:
    """Of their outputs, to the largest number. ValueError: they are not equal to rounding."""
    with torch.inference_mode():
        expected, found = (_tensor(each(x)) for each in (model, twin))
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(f"the accelerated model's output differs by {difference:.1e} of the largest")
    return difference


def _infer(model: nn.Module, x: torch.Tensor) -> tuple[float, float]:
    started = time.process_time(), time.perf_counter()
    with torch.inference_mode():
        model(x)
    return time.process_time() - started[0], time.perf_counter() - started[1]


def _train(model: nn.Module, x: torch.Tensor) -> tuple[float, float]:
    started = time.process_time(), time.perf_counter()
    _tensor(model(x)).square().mean().backward()
    model.zero_grad()
    return time.process_time() - started[0], time.perf_counter() - started[1]


def _tensor(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output["out" if "out" in output else "logits"]


if __name__ == "__main__":
    console.run(main)
