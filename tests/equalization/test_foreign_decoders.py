"""equalize on decoders with attention, nested and padded concatenations, of other libraries and written here.

Oracles: how many maps each decoder concatenates, by its own construction; the std of these channel ranges in what the
convolution really reads; the folded model beside the equalized one.
"""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq import equalize, fold_equalizers
from scaleeq.equalization.calibration import fusions_of

MISSING = "pip install -e .[models] brings it"


def images(count=2, size=64, seed=3):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def smp_decoder(name, attention):
    smp = pytest.importorskip("segmentation_models_pytorch", reason=MISSING)
    torch.manual_seed(0)
    depth = {"encoder_depth": 4, "decoder_channels": (32, 24, 16, 16)}
    attention = {"decoder_attention_type": "scse" if attention else None}
    return getattr(smp, name)("resnet18", encoder_weights=None, classes=3, **depth, **attention)


def check_measured(model, x):
    """Each channel range of what each equalized convolution reads has std 1 once it is divided by its std."""
    read = {}
    for name, fusion in fusions_of(model).items():
        fusion.register_forward_pre_hook(lambda module, args, name=name: read.update({name: args[0].detach().double()}))
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.eval()
    model(x)
    assert read
    for name, fusion in fusions_of(model).items():
        widths = [equalizer.channels for equalizer in fusion.equalizer_of.values()]
        for part, equalizer in zip(read[name].split(widths, 1), fusion.equalizer_of.values(), strict=True):
            assert float(part.std(correction=0) * equalizer.scale()[0]) == pytest.approx(1, rel=1e-4), name


def logits(model, x):
    made = model.eval()(x)
    return made if isinstance(made, torch.Tensor) else made.logits


def check_fold(model, x):
    expected = logits(model, x)
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(logits(fold_equalizers(model), x) / scale, expected / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", [False, True])
def test_unet(attention):
    model = smp_decoder("Unet", attention)
    report = equalize(model, [images()], num_images=-1)
    assert {name: len(branches) for name, branches in report.fusions.items()} == {
        f"decoder.blocks.{index}.conv1.0": 2 for index in range(3)
    }
    gates = [f"decoder.blocks.{i}.attention1.attention.{part}" for i in range(3) for part in ("cSE.1", "sSE.0")]
    assert set(report.passed_over) == set(gates if attention else [])
    for name, reason in report.passed_over.items():
        assert name in str(report) and ("a gate" if "sSE" in name else "through adaptive_avg_pool2d") in reason
    check_measured(model, images())
    check_fold(model, images())


@pytest.mark.parametrize("attention", [False, True])
def test_unet_plus_plus(attention):
    model = smp_decoder("UnetPlusPlus", attention)
    report = equalize(model, [images()], num_images=-1)
    assert len(report.fusions) == 6
    for name, branches in report.fusions.items():
        depth, layer = map(int, re.fullmatch(r"decoder\.blocks\.x_(\d)_(\d)\.conv1\.0", name).groups())
        assert len(branches) == layer - depth + 2  # the upsampled map, the skip, and the nodes between
    assert len(report.passed_over) == (12 if attention else 0)
    check_measured(model, images())
    check_fold(model, images())


def test_a_head_that_reads_attributes_of_its_convolution():
    transformers = pytest.importorskip("transformers", reason=MISSING)
    torch.manual_seed(0)
    config = transformers.MobileNetV2Config(depth_multiplier=0.35, num_labels=3, output_stride=8, initializer_range=0.3)
    model = transformers.MobileNetV2ForSemanticSegmentation(config)
    report = equalize(model, [images()], num_images=-1)
    projection = "segmentation_head.conv_projection.convolution"
    assert [(name, len(branches)) for name, branches in report.fusions.items()] == [(projection, 2)]
    check_measured(model, images())
    check_fold(model, images())


class DenseBlock(nn.Module):
    """Each layer reads all maps before it; the last two are kept concatenations, upsampled to the input's size."""

    def __init__(self, norm):
        super().__init__()
        self.norms = nn.ModuleList((nn.BatchNorm2d if norm else nn.Identity)(4 + 3 * index) for index in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(4 + 3 * index, 3, 3, padding=1) for index in range(3))
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(3 + 13, 5, 1)

    def forward(self, x):
        """x: (N, 3, H, W) -> (N, 5, H, W)."""
        maps = F.avg_pool2d(self.stem(x), 2)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            maps = torch.cat([maps, 10 * layer(norm(maps).relu())], 1)
        return self.last(torch.cat([x, F.interpolate(maps, scale_factor=2.0, mode="bilinear")], 1))


@pytest.mark.parametrize("norm", [False, True])
def test_a_dense_block(norm):
    torch.manual_seed(0)
    model = DenseBlock(norm)
    report = equalize(model, [images(size=16)], num_images=-1)
    assert [branch.channels for branch in report.fusions["last"].values()] == [3, 4, 3, 3, 3]
    reasons = {f"layers.{index}": "batch_norm" if norm else "none of them resized" for index in (1, 2)}
    assert report.passed_over.keys() == reasons.keys()
    assert all(reasons[name] in why for name, why in report.passed_over.items())
    check_measured(model, images(size=16))
    check_fold(model, images(size=16))


class ValidUnet(nn.Module):
    """A U-Net whose convolutions pad nothing: skips are cropped, upsampled maps are padded where sizes differ."""

    def __init__(self, crop):
        super().__init__()
        self.crop = crop
        self.down = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 3)])
        self.up = nn.ModuleList([nn.Conv2d(8 + 6, 6, 3), nn.Conv2d(6 + 4, 4, 3)])

    def forward(self, x):
        """x: (N, 3, H, W) -> (N, 4, h, w)."""
        skips = []
        for conv in self.down:
            x = conv(x if not skips else F.max_pool2d(x, 2)).relu()
            skips.append(x)
        for conv, skip in zip(self.up, skips[-2::-1], strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            if self.crop:
                skip = skip[:, :, rows // 2 : rows // 2 + x.shape[2], columns // 2 : columns // 2 + x.shape[3]]
            elif rows or columns:
                x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            x = conv(torch.cat([skip, x], 1)).relu()
        return x


@pytest.mark.parametrize("size", [42, 43, 46])
@pytest.mark.parametrize("crop", [False, True])
def test_a_unet_that_pads_or_crops(crop, size):
    torch.manual_seed(0)
    model = ValidUnet(crop)
    report = equalize(model, [images(size=size)], num_images=-1)
    found = {name: [branch.channels for branch in branches.values()] for name, branches in report.fusions.items()}
    assert found == {"up.0": [6, 8], "up.1": [4, 6]} and not report.passed_over
    check_measured(model, images(size=size))
    check_fold(model, images(size=size))


def test_a_float16_model():
    torch.manual_seed(0)
    model = ValidUnet(crop=True).half()
    equalize(model, [images(size=42).half()], num_images=-1)
    expected = model(images(size=42).half())
    assert expected.isfinite().all()
    torch.testing.assert_close(fold_equalizers(model)(images(size=42).half()), expected, rtol=0, atol=5e-3)
