"""ViTBackbone: blocks, sizes, the simple pyramid. Oracles: timm's own forward, Detectron2's SimpleFeaturePyramid."""

from __future__ import annotations

import functools
import math

import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from scaleeq import create_model, engine, fold_equalizers
from scaleeq.backbones import TimmBackbone, ViTBackbone
from scaleeq.backbones.depth import layer_ids
from scaleeq.backbones.registered import build_vit_backbone
from scaleeq.backbones.timm import Weights
from scaleeq.choices import flatten
from scaleeq.create import DECODERS
from scaleeq.engine import load_config
from scaleeq.equalization import calibrate, equalize_fusions
from scaleeq.equalization.calibration import fusions_of
from scaleeq.equalization.spec import EqualizerSpec
from scaleeq.model import ScaleEqSegmentor
from tests.training.tiny import TOY_STEP, OneStep

NAME = "test_vit"  # 6 blocks of 64 channels, patches of 16 pixels
SIZES = ((64, 96), (97, 61), (15, 28))
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@functools.lru_cache(maxsize=4)
def backbone_of(name: str, **options) -> ViTBackbone:
    torch.manual_seed(0)
    return ViTBackbone(name=name, **options)


def shapes_of(backbone, height: int, width: int) -> dict:
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, height, width))
    assert all(feature.is_contiguous() and feature.isfinite().all() for feature in features.values())
    return {level: tuple(feature.shape) for level, feature in features.items()}


# A ViT with a class token, one with registers, an EVA with rotary positions.
@pytest.mark.parametrize("pyramid", ["", "simple"])
@pytest.mark.parametrize("name", [NAME, "test_vit2", "vit_small_patch16_dinov3", "vit_small_patch14_dinov2"])
def test_levels_have_true_strides_at_any_size(name, pyramid):
    backbone = backbone_of(name, pyramid=pyramid, patch_size=16 if pyramid else 0).eval()
    levels = backbone.levels()
    expected = (
        STRIDES if pyramid else {f"layer{number}": levels["layer1"].stride for number in range(1, len(levels) + 1)}
    )
    assert {level: shape.stride for level, shape in levels.items()} == expected
    for height, width in SIZES:
        assert shapes_of(backbone, height, width) == {
            level: (2, channels, math.ceil(height / stride), math.ceil(width / stride))
            for level, (channels, stride) in levels.items()
        }


@pytest.mark.parametrize("final_norm", [False, True])
def test_the_maps_are_timms(final_norm):
    """At the size for which timm makes the model, its own forward says what the blocks' maps are."""
    theirs = timm.create_model(NAME).eval()
    weights = Weights(theirs.state_dict(), "the test")
    backbone = ViTBackbone(name=NAME, pretrained=weights, final_norm=final_norm).eval()
    image = torch.randn(2, 3, *theirs.patch_embed.img_size)
    with torch.no_grad():
        last, maps = theirs.forward_intermediates(image, norm=final_norm)
        features = backbone(image)
    assert list(features) == [f"layer{number}" for number in range(1, 7)]
    for feature, expected in zip(features.values(), maps, strict=True):
        torch.testing.assert_close(feature, expected, rtol=0, atol=0)
    tokens = features["layer6"].flatten(2).mT
    assert torch.equal(tokens, last[:, 1:]) == final_norm


def test_positions_are_resampled_to_the_images_grid():
    theirs = timm.create_model(NAME).eval()
    backbone = ViTBackbone(name=NAME, pretrained=Weights(theirs.state_dict(), "the test")).eval()
    fixed = timm.create_model(NAME, img_size=(64, 96)).eval()
    state = dict(theirs.state_dict())
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=(4, 6), num_prefix_tokens=1)
    fixed.load_state_dict(state)
    image = torch.randn(1, 3, 61, 90)  # 3 and 6 pixels are padded
    with torch.no_grad():
        expected = fixed.forward_intermediates(torch.nn.functional.pad(image, (0, 6, 0, 3)), intermediates_only=True)
        features = backbone(image)
    for feature, reference in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(feature, reference)


def test_another_patch_size_resamples_the_weights():
    weights = Weights(timm.create_model(NAME).state_dict(), "the test")
    backbone = ViTBackbone(name=NAME, pretrained=weights, patch_size=8)
    assert backbone.levels()["layer6"].stride == 8
    assert backbone.body.model.patch_embed.proj.weight.shape[-2:] == (8, 8)
    block = "blocks.5.mlp.fc2.weight"
    assert torch.equal(backbone.body.model.state_dict()[block], weights.tensors[block])


def test_every_parameter_is_trained_and_no_more_is_kept_than_is_read():
    for options, kept in (({}, ["layer2", "layer4"]), ({"pyramid": "simple"}, ["res3", "res5"])):
        backbone = ViTBackbone(name=NAME, **options)
        everything = backbone.eval()(image := torch.randn(2, 3, 65, 47))
        backbone.keep_levels(kept)
        features = backbone(image)
        assert list(features) == list(backbone.levels()) == kept
        assert all(torch.equal(features[level], everything[level]) for level in kept)
        sum(feature.square().mean() for feature in backbone.train()(image).values()).backward()
        assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []
    assert len(ViTBackbone(name=NAME).body.model.blocks) == 6


def test_the_simple_pyramid_is_detectron2s():
    vit = pytest.importorskip("detectron2.modeling.backbone.vit")
    layers = pytest.importorskip("detectron2.layers")
    modeling = pytest.importorskip("detectron2.modeling")
    ours = ViTBackbone(name=NAME, pyramid="simple", pyramid_channels=32).eval()

    class Net(modeling.Backbone):
        def output_shape(self):
            return {"last": layers.ShapeSpec(channels=64, stride=16)}

        def forward(self, x):
            return {"last": x}

    theirs = vit.SimpleFeaturePyramid(Net(), "last", 32, (4.0, 2.0, 1.0, 0.5), norm="LN", square_pad=0).eval()
    # Their convolutions hold their norms, ours are followed by them: the tensors come in the same order.
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.pyramid.state_dict().values(), strict=True)))
    x = torch.randn(2, 64, 4, 6)
    with torch.no_grad():
        for ours_, expected in zip(ours.pyramid(x).values(), theirs(x).values(), strict=True):
            torch.testing.assert_close(ours_, expected)


# --- freezing and depth ---


def test_frozen_quarters():
    for freeze_at, blocks in ((1, 0), (2, 2), (3, 3), (4, 5), (5, 6)):
        backbone = ViTBackbone(name=NAME, freeze_at=freeze_at, final_norm=True)
        trained = {key for key, parameter in backbone.body.named_parameters() if parameter.requires_grad}
        assert {key.split(".")[2] for key in trained if ".blocks." in key} == set(map(str, range(blocks, 6)))
        assert not any(key.startswith(("model.pos_embed", "model.cls_token", "model.patch_embed")) for key in trained)
        assert any(key.startswith("model.norm.") for key in trained) == (freeze_at < 5)
    backbone = ViTBackbone(name=NAME, freeze_at=5, pyramid="simple", drop_path_rate=0.5).train()
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(backbone(image)["res4"], backbone(image)["res4"])
    assert all(parameter.requires_grad for parameter in backbone.pyramid.parameters())


def test_depth_counts_blocks_as_timm_does():
    backbone = ViTBackbone(name="vit_tiny_patch16_224", final_norm=True)
    ids, count = layer_ids(backbone, "block")
    assert count == 12 and ids.keys() == {f"body.{key}" for key, _ in backbone.body.named_parameters()}
    facts = {
        "pos_embed": 0,
        "patch_embed.proj.bias": 0,
        "blocks.0.norm1.bias": 1,
        "blocks.11.mlp.fc2.bias": 12,
        "norm.bias": 12,
    }
    assert {key: ids[f"body.model.{key}"] for key in facts} == facts
    stages, count = layer_ids(backbone, "stage")
    assert (
        count == 4
        and [stages[f"body.model.blocks.{i}.norm1.bias"] for i in range(12)] == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    )


# --- refusals ---


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "mixer_s16_224", "vit_small_r26_s32_224"])
def test_what_is_no_plain_vit_is_refused(name):
    with pytest.raises(ValueError, match=rf"MODEL\.TIMM\.NAME is '{name}', which is no plain ViT"):
        ViTBackbone(name=name)


def test_a_pyramid_needs_patches_of_16_pixels():
    with pytest.raises(ValueError, match=r"14 pixels wide.*set MODEL\.VIT\.PATCH_SIZE 16"):
        ViTBackbone(name="vit_small_patch14_dinov2", pyramid="simple")
    with pytest.raises(ValueError, match=r"MODEL\.VIT\.PYRAMID is 'fpn'; choose one of"):
        ViTBackbone(name=NAME, pyramid="fpn")


def test_the_other_backbone_says_where_plain_vits_are():
    with pytest.raises(ValueError, match="build_vit_backbone"):
        TimmBackbone(name=NAME)


# --- in models ---


CONFIG = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_vit_backbone",
    "MODEL.TIMM.NAME": NAME,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 8,
    "MODEL.AUX_HEAD.IN_FEATURES": [],
    "MODEL.AUX_HEAD.LOSS_WEIGHTS": [],
}
LAYERS = {"MODEL.SEM_SEG_HEAD.IN_FEATURES": ["layer2", "layer4", "layer5"], "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 16}


def config(*changes, name="quickstart"):
    options = functools.reduce(dict.__or__, changes, CONFIG)
    return load_config(name, [word for pair in options.items() for word in pair])


def model_of(cfg) -> ScaleEqSegmentor:
    import scaleeq.segmentor  # noqa: F401  (registers it)

    return engine.build_model(cfg)


def test_built_from_a_config():
    cfg = config({"MODEL.BACKBONE.FREEZE_AT": 2, "MODEL.VIT.FINAL_NORM": True, "MODEL.VIT.PATCH_SIZE": 8})
    backbone = build_vit_backbone(cfg, engine.ShapeSpec(channels=3))
    assert isinstance(backbone, engine.Backbone) and backbone.output_shape()["layer6"].stride == 8
    assert backbone.body.norm and not backbone.body.model.blocks[1].norm1.weight.requires_grad


@pytest.mark.parametrize("key, value", [("LEVEL_NORM", True), ("OUTPUT_STRIDE", 8), ("NORM", "FrozenBN")])
def test_keys_of_other_backbones_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"MODEL\.TIMM\.{key} is {value}, but a plain ViT has no such part"):
        model_of(config(LAYERS, {f"MODEL.TIMM.{key}": value}))


@pytest.mark.parametrize("head", ["UPerHead", "SemanticFPNHead", "FCNHead"])
def test_concatenated_blocks_are_equalized_and_folded(head):
    """The blocks' own maps, all of one size, through a decoder of several levels; folding keeps the logits."""
    torch.manual_seed(0)
    model = model_of(config(LAYERS, {"MODEL.SEM_SEG_HEAD.NAME": head}, {"MODEL.SCALE_EQUALIZER.ENABLED": True}))
    assert len(model.backbone.body.model.blocks) == 5, "layer6 is not read"
    images = torch.randn(2, 3, 61, 90)
    batch = [{"image": image.mul(50).add(128)} for image in images]
    calibrate(model, [batch])
    model.eval()
    with torch.no_grad():
        equalized = model.logits(images)
        folded = fold_equalizers(model).logits(images)
    torch.testing.assert_close(folded, equalized, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_reads_the_simple_pyramid(decoder):
    backbone = ViTBackbone(name=NAME, pyramid="simple", pyramid_channels=16)
    options = {"channels": 16} if decoder != "semantic_fpn" else {"channels": 32}
    model = create_model(decoder, backbone, num_classes=5, **options)
    equalize_fusions(model, EqualizerSpec())
    calibrate(model, [torch.randn(2, 3, 64, 64)])
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 61, 90)).shape == (1, 5, 61, 90)


def test_one_training_step_of_the_recipe(tmp_path):
    """ade20k/linear_dinov2_small+scale_equalizer on a tiny ViT: four concatenated blocks of a frozen backbone."""
    small = {
        **TOY_STEP,
        "MODEL.DEVICE": "cpu",
        "MODEL.TIMM.NAME": NAME,
        "MODEL.TIMM.PRETRAINED": False,
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["layer3", "layer4", "layer5", "layer6"],
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 16,
        "MODEL.SCALE_EQUALIZER.NUM_IMAGES": 2,
        "SOLVER.WARMUP_ITERS": 0,
        "OUTPUT_DIR": str(tmp_path),
    }
    cfg = load_config("ade20k/linear_dinov2_small+scale_equalizer", [word for pair in small.items() for word in pair])
    trainer = OneStep(cfg)
    classifier = trainer.model.sem_seg_head.classifier.weight.detach().clone()
    trainer.train()
    assert not torch.equal(classifier, trainer.model.sem_seg_head.classifier.weight)
    assert not any(parameter.requires_grad for parameter in trainer.model.backbone.parameters())
    (fusion,) = fusions_of(trainer.model).values()
    assert list(fusion.equalizers) == small["MODEL.SEM_SEG_HEAD.IN_FEATURES"]


def test_the_recipe_says_what_it_reads():
    keys = dict(flatten(load_config("ade20k/linear_dinov2_small")))
    assert keys["MODEL.TIMM.PRETRAINED"] and keys["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] == 150
    side = keys["INPUT.CROP.SIZE"][0]
    assert side % 14 == 0 and list(keys["TEST.SLIDE.WINDOW"]) == [side]
