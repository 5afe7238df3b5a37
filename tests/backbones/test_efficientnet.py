"""EfficientNets of any width and depth. Oracles: timm's own models, ESeg's sizes, the rounding rule written out."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from scaleeq.backbones import TimmBackbone
from scaleeq.backbones.efficientnet import scaled_efficientnet
from scaleeq.backbones.timm import create_body

STAGES = {"repeats": (1, 2, 2, 3, 3, 4, 1), "channels": (16, 24, 40, 80, 112, 192, 320)}


def rounded(channels: float) -> int:
    """To a multiple of 8, never below 90 % of it."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


@pytest.mark.parametrize(("width", "depth"), [(0.4, 0.6), (0.6, 1.0), (1.0, 1.1), (1.4, 1.8), (2.0, 3.1)])
def test_channels_and_repeats_follow_the_rules(width, depth):
    with torch.device("meta"):
        body = create_body("tf_efficientnet_b0", multipliers=(width, depth))
    assert body.feature_info.channels() == [rounded(width * STAGES["channels"][i]) for i in (1, 2, 4, 6)]
    assert [len(stage) for stage in body.blocks] == [math.ceil(depth * n) for n in STAGES["repeats"]]


@pytest.mark.parametrize(("name", "width", "depth"), [("b1", 1.0, 1.1), ("b2", 1.1, 1.2)])
@pytest.mark.parametrize("prefix", ["", "tf_"])
def test_published_multipliers_give_timms_models(prefix, name, width, depth):
    options = {"features_only": True, "out_indices": (-4, -3, -2, -1)}
    theirs = timm.create_model(f"{prefix}efficientnet_{name}", **options).eval()
    ours = scaled_efficientnet(f"{prefix}efficientnet_b0.in1k", multipliers=(width, depth), **options).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 49, 67)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(ours(x), theirs(x), strict=True))


def test_lite_s_is_the_specified_encoder():
    backbone = TimmBackbone(name="tf_efficientnet_b0", multipliers=(0.4, 0.6), bn_momentum=0.01)
    assert sum(p.numel() for p in backbone.parameters()) == 514_010
    shapes = {level: (spec.channels, spec.stride) for level, spec in backbone.levels().items()}
    assert shapes == {"res2": (16, 4), "res3": (16, 8), "res4": (48, 16), "res5": (128, 32)}
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}
    features = backbone.eval()(torch.randn(1, 3, 33, 65))
    assert {level: tuple(x.shape[-2:]) for level, x in features.items()} == {
        "res2": (9, 17), "res3": (5, 9), "res4": (3, 5), "res5": (2, 3)
    }  # fmt: skip


def test_refusals():
    with pytest.raises(ValueError, match="are of efficientnet_b0 and tf_efficientnet_b0, not of NAME 'resnet50'"):
        create_body("resnet50", multipliers=(0.5, 1.0))
    with pytest.raises(ValueError, match=r"WIDTH_MULTIPLIER 0\.0 and DEPTH_MULTIPLIER 1\.0 must be positive"):
        create_body("efficientnet_b0", multipliers=(0.0, 1.0))
    with pytest.raises(ValueError, match="there are no weights for efficientnet_b0 with"):
        create_body("efficientnet_b0", 3, True, multipliers=(0.5, 1.0))
