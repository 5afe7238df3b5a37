"""FPN. Oracle: torchvision's FeaturePyramidNetwork with mapped weights."""

from __future__ import annotations

from functools import partial

import torch
from torchvision.ops import FeaturePyramidNetwork

from scaleeq.fusion import EqualizerSpec, Fusion, Resize
from scaleeq.pyramids import fpn

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


def test_a_ready_top_passes_untouched_and_adds_no_parameter():
    ready = fpn({**CHANNELS, "res5": 5}, 5, ready_top=True).double()
    x = features() | {"res5": torch.randn(2, 5, 3, 3, dtype=torch.float64)}
    assert ready(x)["res5"] is x["res5"]
    plain = fpn(CHANNELS, 5)
    top = sum(p.numel() for m in (plain.top_lateral, plain.outputs["res5"]) for p in m.parameters())
    assert sum(p.numel() for p in plain.parameters()) - sum(p.numel() for p in ready.parameters()) == top


def test_every_merge_is_a_fusion_and_can_be_equalized():
    pyramid = fpn(CHANNELS, 5, equalizer=EqualizerSpec())
    fusions = [m for m in pyramid.modules() if isinstance(m, Fusion)]
    assert len(fusions) == 3
    assert all(set(fusion.equalizer_of) == {"lateral", "top_down"} for fusion in fusions)
