"""ESeg. Oracles: its graph (arXiv 2203.12683) in torch's functions, averages by loops, exact sizes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import scaleeq.segmentor  # noqa: F401  (registers the heads)
from scaleeq import calibrate, fold_equalizers
from scaleeq.backbones.timm import create_body
from scaleeq.decoders import ESeg, FusionOptions, PyramidOptions
from scaleeq.engine import SEM_SEG_HEADS_REGISTRY, ShapeSpec, build_model, load_config
from scaleeq.equalization import EqualizerSpec
from scaleeq.equalization.calibration import fusions_of
from scaleeq.fusion import Fusion
from scaleeq.layers import BatchNorm2d, Level
from scaleeq.tasks.head import SegmentationHead
from tests.decoders.heads import head_of
from tests.equalized import equalized

CHANNELS = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
POOLED = ["p6", "p7", "p8", "p9"]
BASE = Path(__file__).parents[2] / "configs" / "Base.yaml"


def shapes(strides=STRIDES) -> dict[str, Level]:
    return {level: Level(CHANNELS[level], stride) for level, stride in strides.items()}


def make_head(**options) -> SegmentationHead:
    torch.manual_seed(0)
    return head_of(ESeg, **{"levels": shapes(), **options}, dropout=0.0)


def make_features(height: int, width: int, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        level: torch.randn(batch, CHANNELS[level], -(-height // s), -(-width // s), generator=generator)
        for level, s in STRIDES.items()
    }


# name -> (NAME, multipliers, CONVS_DIM, REPEATS), and the parameters of the model with 19 classes. Those of Lite-S and
# S are the specified ones; M and L are published as 20.0 M and 70.5 M.
MODELS = {
    "lite_s": ("tf_efficientnet_b0", (0.4, 0.6), 64, 1, 634_455),
    "lite_m": ("tf_efficientnet_b0", (0.6, 1.0), 80, 2, None),
    "lite_l": ("tf_efficientnet_b0", (1.0, 1.0), 96, 3, None),
    "s": ("tf_efficientnet_b1", (1.0, 1.0), 96, 4, 6_860_643),
    "m": ("tf_efficientnet_b4", (1.0, 1.0), 192, 5, 20.0e6),
    "l": ("tf_efficientnet_b7", (1.0, 1.0), 288, 6, 70.5e6),
}


def on_meta(name: str) -> tuple[torch.nn.Module, SegmentationHead]:
    """Encoder and head, without memory."""
    backbone, multipliers, width, cells, _ = MODELS[name]
    with torch.device("meta"):
        body = create_body(backbone, multipliers=multipliers)
        channels = body.feature_info.channels()
        head = head_of(
            ESeg,
            {level: Level(c, s) for (level, s), c in zip(STRIDES.items(), channels, strict=True)},
            width,
            num_classes=19,
            pyramid=PyramidOptions(name="bifpn", channels=width, repeats=cells),
        )
    return body.eval(), head.eval()


@pytest.mark.parametrize("name", MODELS)
def test_the_family_has_the_published_sizes(name):
    _, _, width, cells, expected = MODELS[name]
    body, head = on_meta(name)
    channels = body.feature_info.channels()
    counts = [sum(p.numel() for p in module.parameters()) for module in (body, head.pyramid, head)]
    laterals = sum(c * width + 2 * width for c in (*channels, *[channels[-1]] * 4))
    assert counts[1] == laterals + cells * (14 * (9 * width + width**2 + 2 * width) + 34)
    block = 9 * width + width**2 + width + 2 * width  # the pointwise convolution has a bias
    assert counts[2] - counts[1] == 8 + block + 19 * (width + 1)
    total = counts[0] + counts[2]
    if isinstance(expected, int):
        assert total == expected
    elif expected:
        assert round(total / 1e6, 1) == expected / 1e6


@pytest.mark.parametrize(("name", "expected"), [("lite_s", 5_161_131_584), ("s", 33_839_019_520)])
def test_multiply_adds_of_the_convolutions(name, expected):
    """Of an image of 1024 x 2048 pixels."""
    counts = []

    def count(conv, inputs, output):
        counts.append(output.numel() * conv.weight[0].numel())

    body, head = on_meta(name)
    for module in (*body.modules(), *head.modules()):
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    head.logits(dict(zip(STRIDES, body(torch.empty(1, 3, 1024, 2048, device="meta")), strict=True)))
    assert sum(counts) == expected


def ceil_pooled(image: np.ndarray) -> np.ndarray:
    result = np.zeros([math.ceil(size / 2) for size in image.shape])
    for row, column in np.ndindex(*result.shape):
        result[row, column] = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean()
    return result


@pytest.mark.parametrize("size", [(512, 1024), (417, 289), (33, 5)])
def test_the_coarse_levels_are_means_of_the_raw_top_level(size):
    head = make_head().eval()
    seen = {}
    head.pyramid.register_forward_pre_hook(lambda module, args: seen.update(args[0]))
    features = make_features(*size)
    head.decoder(features)
    assert list(seen) == [*CHANNELS, *POOLED]
    finer = features["res5"].numpy()
    for level in POOLED:
        expected = np.stack([[ceil_pooled(channel) for channel in image] for image in finer])
        np.testing.assert_allclose(seen[level].numpy(), expected, rtol=1e-5, atol=1e-6)
        finer = seen[level].numpy()


def test_levels_are_upsampled_summed_by_a_softmax_and_then_convolved():
    head = make_head().double().eval()
    with torch.no_grad():
        head.fusion.combine.logits.copy_(torch.randn(8))
        head.fusion.mix[1].running_mean.copy_(torch.randn(8))
    features = {level: x.double() for level, x in make_features(96, 132).items()}
    levels = {}
    head.pyramid.register_forward_hook(lambda module, args, out: levels.update(out))
    logits = head.logits(features)
    shares = head.fusion.combine.logits.exp() / head.fusion.combine.logits.exp().sum()
    total = sum(
        share * F.interpolate(y, (24, 33), mode="bilinear", align_corners=False)
        for share, y in zip(shares, levels.values(), strict=True)
    )
    separable, norm, _ = head.fusion.mix
    x = F.conv2d(total, separable.depthwise.weight, padding=1, groups=8)
    x = F.conv2d(x, separable.pointwise.weight, separable.pointwise.bias)
    x = (x - norm.running_mean.view(-1, 1, 1)) / math.sqrt(1 + 1e-3)
    torch.testing.assert_close(logits, head.classifier(x * torch.sigmoid(x)), rtol=0, atol=1e-12)


def test_batch_norms_have_tensorflows_settings():
    norms = [m for m in make_head().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 7 + 14 + 1  # res4 is as wide as the pyramid and has no lateral
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


@pytest.mark.parametrize("spec", [None, EqualizerSpec(), EqualizerSpec(implementation="module")])
def test_one_small_image_trains_every_parameter(spec):
    """Its P9 is one pixel, so are P6 to P8: without batch statistics they are normalised by the running ones."""
    head = equalized(make_head(), spec).train()
    if spec:
        calibrate(head, [make_features(96, 64, batch=4)] * 2, num_images=-1)
    before = {name: m.running_mean.clone() for name, m in head.named_modules() if isinstance(m, BatchNorm2d)}
    _, losses = head(make_features(32, 32, batch=1), torch.zeros(1, 32, 32, dtype=torch.long))
    assert losses["loss_sem_seg"].isfinite()
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    after = {name: head.get_submodule(name).running_mean for name in before}
    untouched = {name for name, mean in before.items() if torch.equal(mean, after[name])}
    assert {f"pyramid.laterals.{level}.norm" for level in ("res5", *POOLED)} <= untouched
    assert "pyramid.laterals.res2.norm" not in untouched


def test_all_fifteen_fusions_are_calibrated_in_one_pass_and_fold():
    head = equalized(make_head(), EqualizerSpec())
    report = calibrate(head, [make_features(256, 512, batch=4)] * 2, num_images=-1)
    assert report.joint and len(report.fusions) == 15
    assert list(report.fusions)[-1] == "fusion"
    head.eval()
    features = make_features(96, 132)
    folded = fold_equalizers(head)
    assert not fusions_of(folded)
    torch.testing.assert_close(folded.logits(features), head.logits(features), rtol=1e-4, atol=1e-5)
    only = equalized(make_head(), EqualizerSpec(), "head")
    assert list(calibrate(only, [make_features(96, 132)] * 2, num_images=-1).fusions) == ["fusion"]


def from_config(*options: str, strides=STRIDES) -> SegmentationHead:
    keys = ["MODEL.SEM_SEG_HEAD.NAME", "ESegHead", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "8"]
    cfg = load_config(BASE, [*keys, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", *options])
    levels = {level: ShapeSpec(channels=CHANNELS[level], stride=stride) for level, stride in strides.items()}
    return SEM_SEG_HEADS_REGISTRY.get("ESegHead")(cfg, levels)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("MODEL.PYRAMID.REPEATS", "2", "MODEL.PYRAMID.COMBINE", "sum", "MODEL.PYRAMID.CHANNELS", "16"),
        ("MODEL.PYRAMID.NAME", "fpn", "MODEL.FUSION.COMBINE", "fast_normalized"),
        ("MODEL.PYRAMID.NAME", "fapn", "MODEL.FUSION.TRANSFER", "nearest"),
        ("MODEL.FUSION.COMBINE", "concat", "MODEL.FUSION.TRANSFER", "supervised_gated"),
        ("MODEL.PYRAMID.DOWN_TRANSFER", "avg", "MODEL.FUSION.TRANSFER", "aligned"),
        ("MODEL.SCALE_EQUALIZER.ENABLED", "True", "MODEL.SCALE_EQUALIZER.SCOPE", "all"),
    ],
    ids=str,
)
def test_variants_by_keys_train(options):
    head = from_config(*options).train()
    _, losses = head(make_features(64, 96), torch.zeros(2, 64, 96, dtype=torch.long))
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())
    fusions = [m for m in head.modules() if isinstance(m, Fusion)]
    assert all(bool(fusion.equalizers) == ("all" in options) for fusion in fusions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MODEL.PYRAMID.NORM", "GN"), "PYRAMID.NORM is 'GN', but ESegHead has no norms but those of"),
        (("MODEL.SEM_SEG_HEAD.CONTEXT_GATE", "True"), "CONTEXT_GATE is True, but ESegHead has no"),
        (("MODEL.PYRAMID.NAME", "none"), "'softmax' adds branches of one width; their channels are res2 4, res3 6"),
        (("MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res4']"), r"stride doubles .*; res2, res4 have \[4, 16\]"),
    ],
    ids=str,
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        from_config(*options)


def test_levels_beyond_the_backbones_are_named_by_their_stride():
    decoder = ESeg(shapes({"res2": 4, "res3": 8}), 8)
    assert decoder.pooled_levels == [
        "p4",
        "p5",
        "p6",
        "p7",
        "p8",
        "p9",
    ]
    with pytest.raises(ValueError, match=r"res2, res3 have \[3, 6\]"):
        ESeg(shapes({"res2": 3, "res3": 6}), 8)


def test_a_concatenation_cannot_be_equalized_into_the_separable_block():
    with pytest.raises(ValueError, match="a scale equalizer before Sequential has no weights to go to"):
        equalized(make_head(fusion=FusionOptions(combine="concat")), EqualizerSpec(), "head")


def test_any_timm_backbone_will_do():
    keys = {
        "MODEL.SEM_SEG_HEAD.NAME": "ESegHead",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": "8",
        "MODEL.TIMM.NAME": "resnet18",
        "MODEL.AUX_HEAD.IN_FEATURES": "[]",
        "MODEL.AUX_HEAD.LOSS_WEIGHTS": "[]",
        "MODEL.DEVICE": "cpu",
    }
    cfg = load_config(BASE, [part for key, value in keys.items() for part in (key, value)])
    model = build_model(cfg).eval()
    with torch.no_grad():
        result = model([{"image": torch.rand(3, 65, 97) * 255}])
    assert result[0]["sem_seg"].shape[-2:] == (65, 97)
