"""Pyramid backbones of a config, by their registered names, under both engines."""

from __future__ import annotations

import logging

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

import scaleeq
from scaleeq import engine
from scaleeq.config.detection import PYRAMID_BACKBONES
from scaleeq.detection.registered import NAMES
from scaleeq.engine import Backbone, build_backbone, build_model, load_config
from scaleeq.equalization.calibration import fusions_of
from scaleeq.fusion import Aligned, Fusion
from scaleeq.probes.counting import count

FPN, RETINANET = "build_scaleeq_pyramid_backbone", "build_retinanet_scaleeq_pyramid_backbone"
needs_detectron2 = pytest.mark.skipif(engine.NAME != "detectron2", reason="the ResNet of the real Detectron2")


def config(*options: object):
    """A small timm bottom-up, and what else is given."""
    scaleeq.add_scaleeq_config(engine.get_cfg())
    small = ["MODEL.BACKBONE.NAME", FPN, "MODEL.TIMM.NAME", "test_resnet", "MODEL.PYRAMID.CHANNELS", 16]
    meta = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "INPUT.FORMAT", "RGB", "MODEL.DEVICE", "cpu"]
    pixels = ["MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "MODEL.PIXEL_STD", [58.395, 57.12, 57.375]]
    return load_config(None, [*small, *meta, *pixels, *options])


def test_the_names_are_known_before_torch_is_loaded():
    assert tuple(NAMES) == PYRAMID_BACKBONES


@pytest.mark.parametrize(("name", "levels"), [(FPN, "p2 p3 p4 p5 p6"), (RETINANET, "p3 p4 p5 p6 p7")])
@pytest.mark.parametrize("pyramid", ["", "fapn", "bifpn"])
def test_names_imply_levels(name, levels, pyramid):
    backbone = build_backbone(config("MODEL.BACKBONE.NAME", name, "MODEL.PYRAMID.NAME", pyramid))
    assert isinstance(backbone, Backbone)
    assert " ".join(backbone.output_shape()) == " ".join(backbone(torch.zeros(1, 3, 64, 64))) == levels
    assert {shape.channels for shape in backbone.output_shape().values()} == {16}
    assert backbone.size_divisibility == 32


@needs_detectron2
def test_fapns_own_names_build_fapn_on_detectron2s_resnet():
    for name in ("build_resnet_fan_backbone", "build_retinanet_resnet_fan_backbone"):
        cfg = engine.get_cfg()  # as FaPN's YAML files leave it: Detectron2's keys alone are set
        scaleeq.add_scaleeq_config(cfg)
        levels = ["res2", "res3", "res4", "res5"][name != "build_resnet_fan_backbone" :]
        cfg.merge_from_list(["MODEL.BACKBONE.NAME", name, "MODEL.RESNETS.OUT_FEATURES", levels])
        cfg.merge_from_list(["MODEL.FPN.IN_FEATURES", levels, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.RESNETS.DEPTH", 50])
        with torch.device("meta"):
            backbone = build_backbone(cfg)
        assert type(backbone.bottom_up).__name__ == "ResNet" and "bottom_up.stem.conv1.weight" in backbone.state_dict()
        assert sum(isinstance(module, Aligned) for module in backbone.modules()) == len(levels) - 1
        assert {shape.channels for shape in backbone.output_shape().values()} == {32}


def test_keys_of_detectron2s_fpn_keep_their_meaning():
    cfg = config("MODEL.PYRAMID.CHANNELS", 0, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPN.NORM", "GN")
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    backbone = build_backbone(cfg)
    assert list(backbone.output_shape()) == ["p3", "p4", "p5", "p6"] and backbone.output_shape()["p3"].channels == 32
    assert "pyramid.top_lateral.norm.weight" in backbone.state_dict()
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM = 256, ""
    assert build_backbone(cfg).output_shape()["p3"].channels == 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["MODEL.FPN.OUT_CHANNELS", 64], r"PYRAMID.CHANNELS is 16 and MODEL.FPN.OUT_CHANNELS 64, for the same pyramid"),
        (["MODEL.FPN.NORM", "GN", "MODEL.PYRAMID.NORM", "BN"], r"PYRAMID.NORM is 'BN' and MODEL.FPN.NORM 'GN'"),
        (["MODEL.FPN.FUSE_TYPE", "avg"], r"FUSE_TYPE is 'avg', but the pyramids here add: set 'sum'"),
        (["MODEL.PYRAMID.BOTTOM_UP", "build_tim_backbone"], r"BOTTOM_UP is 'build_tim_backbone'; choose one of"),
        (["MODEL.PYRAMID.BOTTOM_UP", FPN], r"BOTTOM_UP is .*; choose one of"),
        (["MODEL.PYRAMID.EXTRA_LEVELS", "p6"], r"EXTRA_LEVELS is 'p6'; choose one of max_pool"),
        (["MODEL.TIMM.NORM", "frozen"], r"MODEL.TIMM.NORM is 'frozen'; choose one of FrozenBN"),
        (["MODEL.FPN.IN_FEATURES", ["res2", "res9"]], r"not \['res9'\]; the bottom-up has res2, res3"),
        (["MODEL.PYRAMID.NAME", "none"], "a pyramid backbone has one"),
        (["MODEL.SCALE_EQUALIZER.ENABLED", True], r"SCOPE is 'head', but GeneralizedRCNN has no head .*SCOPE all"),
        (
            ["MODEL.SCALE_EQUALIZER.ENABLED", True, "MODEL.META_ARCHITECTURE", "PanopticFPN"],
            r"SCOPE is 'head', but PanopticFPN has SemSegFPNHead, which has no Fusions, to equalize",
        ),
        (["INPUT.FORMAT", "BGR", "MODEL.TIMM.PRETRAINED", True], r"FORMAT is 'BGR' .*timm's weights see RGB"),
        (["MODEL.PIXEL_STD", [1.0, 1.0, 1.0], "MODEL.TIMM.PRETRAINED", True], r"PIXEL_STD \[1.0, 1.0, 1.0\], but timm"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config(*options))


def test_pixels_are_warned_of_where_no_weights_are_loaded(caplog):
    with caplog.at_level(logging.WARNING, logger="scaleeq"):
        build_backbone(config())
        assert not caplog.records
        build_backbone(config("INPUT.FORMAT", "BGR"))
    assert "set INPUT.FORMAT RGB, MODEL.PIXEL_MEAN" in caplog.text


def test_equalizers_of_scope_all_are_the_backbones_own():
    cfg = config("MODEL.SCALE_EQUALIZER.ENABLED", True, "MODEL.SCALE_EQUALIZER.SCOPE", "all")
    assert list(fusions_of(build_backbone(cfg))) == [f"pyramid.merges.res{i}" for i in (4, 3, 2)]
    assert not fusions_of(build_backbone(config()))


def test_frozen_batch_norms_of_timm_are_the_same_function():
    torch.manual_seed(0)
    trained = build_backbone(config()).eval()
    for module in trained.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.uniform_(0.5, 1.5)
    frozen = build_backbone(config("MODEL.TIMM.NORM", "FrozenBN"))
    assert any(isinstance(module, FrozenBatchNorm2d) for module in frozen.modules())
    weights = trained.state_dict()
    assert weights.keys() - frozen.state_dict().keys() == {n for n in weights if n.endswith("num_batches_tracked")}
    frozen.load_state_dict(weights)  # strict: counts of batches are dropped
    image = torch.randn(2, 3, 64, 64)
    for name, x in frozen.train()(image).items():
        torch.testing.assert_close(x, trained(image)[name])


def test_a_semantic_head_on_it_has_no_pyramid_of_its_own():
    """This project's segmentor: its head reads the pyramid's levels, and those that it does not read are dropped."""
    small = ["MODEL.META_ARCHITECTURE", "ScaleEqSegmentor", "MODEL.AUX_HEAD.IN_FEATURES", [], "MODEL.DEVICE", "cpu"]
    small += ["MODEL.AUX_HEAD.LOSS_WEIGHTS", [], "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32, "MODEL.PYRAMID.NAME", "fapn"]
    small += ["MODEL.SEM_SEG_HEAD.NORM", "GN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 5]
    four = ["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"]]
    torch.manual_seed(0)
    model = build_model(config("MODEL.SEM_SEG_HEAD.NAME", "SemanticFPNHead", *four, *small)).eval()
    assert [name for name, module in model.named_modules() if isinstance(module, Fusion)] == [
        *(f"backbone.pyramid.merges.res{i}" for i in (4, 3, 2)),
        "sem_seg_head.fusion",
    ]
    assert list(model.backbone.levels()) == ["p2", "p3", "p4", "p5"]
    assert model([{"image": torch.zeros(3, 64, 64)}])[0]["sem_seg"].shape == (5, 64, 64)
    parts = count(model, [{"image": torch.zeros(3, 64, 64)}]).params_by_part
    assert parts["pyramid"] == sum(p.numel() for p in model.backbone.pyramid.parameters())
    assert parts["backbone"] == sum(p.numel() for p in model.backbone.bottom_up.parameters())
    one = ["MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p4"], "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 16]
    model = build_model(config("MODEL.SEM_SEG_HEAD.NAME", "FCNHead", *one, *small)).eval()
    assert list(model.backbone.levels()) == ["p4"]


@pytest.mark.parametrize("key", ["BOTTOM_UP", "EXTRA_LEVELS"])
def test_keys_of_a_pyramid_backbone_need_one(key):
    value = {"BOTTOM_UP": "build_timm_backbone", "EXTRA_LEVELS": "max_pool"}[key]
    with pytest.raises(ValueError, match=rf"MODEL.PYRAMID.{key} is '{value}', but .* has no pyramid; leave it empty"):
        load_config("toy/fpn", [f"MODEL.PYRAMID.{key}", value])
