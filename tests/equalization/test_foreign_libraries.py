"""equalize on models of other libraries, with random weights. Oracles: "module" beside the others; the plain model.

The examples of docs/any_model.md are run as they stand there.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from scaleeq import equalize, fold_equalizers

DOCUMENT = Path(__file__).parents[2] / "docs" / "any_model.md"
MISSING = "pip install -e .[models] brings it"
SMP = {"encoder_weights": None, "encoder_depth": 4, "decoder_channels": 8, "classes": 3}


def smp_upernet() -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch", reason=MISSING)
    return smp.UPerNet("resnet18", **SMP)


def smp_deeplab() -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch", reason=MISSING)
    return smp.DeepLabV3Plus("resnet18", decoder_aspp_dropout=0.0, **SMP)


def transformers_upernet(backbone: str) -> nn.Module:
    transformers = pytest.importorskip("transformers", reason=MISSING)
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "drop_path_rate": 0.0}
    if backbone == "swin":
        config = transformers.SwinConfig(
            embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, image_size=64, **stages
        )
    else:
        config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, image_size=64, **stages)
    upernet = transformers.UperNetConfig(backbone_config=config, hidden_size=8, auxiliary_channels=8, num_labels=3)
    return transformers.UperNetForSemanticSegmentation(upernet)


def torchvision_deeplab() -> nn.Module:
    """Its backbone is frozen: from random weights, 53 batch norms over two images amplify rounding 300 times a step."""
    from torchvision.models.segmentation import deeplabv3_resnet50

    model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=3)
    model.backbone.requires_grad_(False)
    model.classifier[0].project[3].p = 0.0
    return model


# model -> the convolutions that read its concatenations, and how many branches each has
MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "smp UPerNet": (smp_upernet, {"decoder.psp.out_conv.0": 5, "decoder.fusion_block.0": 3}),
    "smp DeepLabV3Plus": (smp_deeplab, {"decoder.aspp.0.project.0": 5, "decoder.block2.0.0": 2}),
    "transformers UperNet Swin": (
        lambda: transformers_upernet("swin"),
        {"decode_head.bottleneck.conv": 5, "decode_head.fpn_bottleneck.conv": 4},
    ),
    "transformers UperNet ConvNeXt": (
        lambda: transformers_upernet("convnext"),
        {"decode_head.bottleneck.conv": 5, "decode_head.fpn_bottleneck.conv": 4},
    ),
    "torchvision DeepLabV3": (torchvision_deeplab, {"classifier.0.project.0": 5}),
}


def images(count: int, size: int = 32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64) for _ in range(count)]


def logits(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    output = model(x)
    if isinstance(output, torch.Tensor):
        return output
    return output["out" if "out" in output else "logits"]


def train(model: nn.Module) -> None:
    """Ten steps."""
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], 0.02, momentum=0.9, weight_decay=1e-3
    )
    model.train()
    for x in images(10):
        optimizer.zero_grad()
        logits(model, x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", [*list(MODELS)[:4], pytest.param("torchvision DeepLabV3", marks=pytest.mark.slow)])
def test_folds_back_and_trains_as_module(name):
    make, expected = MODELS[name]
    torch.manual_seed(0)
    plain = make().double()
    equalized = copy.deepcopy(plain)
    report = equalize(equalized, images(2), num_images=-1)
    assert {conv: len(branches) for conv, branches in report.fusions.items()} == expected
    assert not report.no_effect  # DeepLabV3Plus: no norm stands between its depthwise convolution and the next one
    x = images(1)[0]
    folded = fold_equalizers(equalized).eval()
    torch.testing.assert_close(logits(folded, x), logits(equalized.eval(), x), rtol=0, atol=1e-10)
    assert (logits(folded, x) - logits(plain.eval(), x)).abs().max() > 1e-6
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert repr(folded) == repr(plain)

    equalize(plain, images(2), num_images=-1, implementation="module")
    train(equalized), train(plain)
    before, reparametrized, module = (
        dict(m.named_parameters()) for m in (folded, *map(fold_equalizers, (equalized, plain)))
    )
    for key in before:
        torch.testing.assert_close(reparametrized[key], module[key], rtol=0, atol=1e-9)
    assert all((before[f"{conv}.weight"] - module[f"{conv}.weight"]).abs().max() > 1e-6 for conv in expected)


def examples() -> dict[str, str]:
    """Heading of docs/any_model.md -> the python block below it."""
    return dict(re.findall(r"^### (.+?)\n.*?^```python\n(.+?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL))


SLOW = {"torchvision"}


@pytest.mark.parametrize("title", [pytest.param(t, marks=pytest.mark.slow if t in SLOW else ()) for t in examples()])
def test_the_document_s_examples_run(title):
    packages = re.findall(r"^(?:import|from) (segmentation_models_pytorch|transformers)", examples()[title], re.M)
    for package in packages:
        pytest.importorskip(package, reason=MISSING)
    scope = {"loader": [x.float() for x in images(2, 64)]}
    exec(compile(examples()[title], f"{DOCUMENT.name}: {title}", "exec"), scope)
    assert len(examples()[title].splitlines()) <= 12
    assert str(scope["report"]).startswith("calibrated")
    assert not [key for key in scope["plain"].state_dict() if "equalizer" in key]
