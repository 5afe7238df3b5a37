"""FPN. Oracles: torchvision's FeaturePyramidNetwork and Detectron2's FPN with mapped weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torchvision.ops import FeaturePyramidNetwork

from scaleeq.decoders import fpn
from scaleeq.equalization import EqualizerSpec
from scaleeq.fusion import Fusion, Resize
from tests.equalized import equalized

CHANNELS = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}
SIZES = {"res2": (17, 23), "res3": (9, 12), "res4": (5, 6), "res5": (3, 3)}


def features() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {level: torch.randn(2, CHANNELS[level], *SIZES[level], dtype=torch.float64) for level in CHANNELS}


def test_fpn_equals_torchvisions():
    theirs = FeaturePyramidNetwork(list(CHANNELS.values()), 5).double()
    ours = fpn(CHANNELS, 5, transfer=partial(Resize, "nearest"), norm=None, activation=False).double()
    pairs = []
    for index, level in enumerate(CHANNELS):
        lateral = ours.top_lateral if level == "res5" else ours.merges[level].branches["lateral"].lateral
        pairs += [(lateral, theirs.inner_blocks[index][0]), (ours.outputs[level], theirs.layer_blocks[index][0])]
    for block, conv in pairs:
        block.conv.load_state_dict(conv.state_dict())
    x = features()
    expected = theirs(x)
    assert list(ours(x)) == list(CHANNELS)
    for level, y in ours(x).items():
        torch.testing.assert_close(y, expected[level], rtol=0, atol=1e-12)


def test_fpn_equals_detectron2s():
    """With a norm, whose layers sit inside of Detectron2's convolutions."""
    modeling = pytest.importorskip("detectron2.modeling", reason="Detectron2 is not installed")

    class Levels(modeling.Backbone):
        def output_shape(self):
            from detectron2.layers import ShapeSpec

            strides = dict(zip(CHANNELS, (4, 8, 16, 32), strict=True))
            return {level: ShapeSpec(channels=CHANNELS[level], stride=strides[level]) for level in CHANNELS}

        def forward(self, x):
            return x

    theirs = modeling.FPN(Levels(), list(CHANNELS), 5, norm="BN").double().eval()
    ours = fpn(CHANNELS, 5, transfer=partial(Resize, "nearest"), activation=False).double().eval()
    for index, level in enumerate(CHANNELS, start=2):
        lateral = ours.top_lateral if level == "res5" else ours.merges[level].branches["lateral"].lateral
        for block, name in ((lateral, f"fpn_lateral{index}"), (ours.outputs[level], f"fpn_output{index}")):
            conv = getattr(theirs, name)
            for p in conv.norm.buffers():
                if p.is_floating_point():
                    p.uniform_(0.5, 2)
            block.conv.weight.data.copy_(conv.weight)
            block.norm.load_state_dict(conv.norm.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x = {level: torch.randn(2, CHANNELS[level], 16 >> i, 24 >> i).double() for i, level in enumerate(CHANNELS)}
    for y, expected in zip(ours(x).values(), theirs(x).values(), strict=False):  # theirs has p6 on top
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_resnet50s_has_the_published_size():
    channels = dict(zip(CHANNELS, (256, 512, 1024, 2048), strict=True))
    assert sum(p.numel() for p in fpn(channels, 256, norm=None, activation=False).parameters()) == 3_344_384


def test_a_ready_top_passes_untouched_and_adds_no_parameter():
    ready = fpn({**CHANNELS, "res5": 5}, 5, ready_top=True).double()
    x = features() | {"res5": torch.randn(2, 5, 3, 3, dtype=torch.float64)}
    assert ready(x)["res5"] is x["res5"]
    plain = fpn(CHANNELS, 5)
    top = sum(p.numel() for m in (plain.top_lateral, plain.outputs["res5"]) for p in m.parameters())
    assert sum(p.numel() for p in plain.parameters()) - sum(p.numel() for p in ready.parameters()) == top


def test_every_merge_is_a_fusion_and_can_be_equalized():
    pyramid = equalized(fpn(CHANNELS, 5), EqualizerSpec())
    fusions = [m for m in pyramid.modules() if isinstance(m, Fusion)]
    assert len(fusions) == 3
    assert all(set(fusion.equalizer_of) == {"lateral", "top_down"} for fusion in fusions)
