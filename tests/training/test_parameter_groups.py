"""Who learns how fast and who decays. Oracles: closed forms, timm's layer-decay groups, Detectron2's solver."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from scaleeq.backbones import TimmBackbone
from scaleeq.engine import load_config
from scaleeq.training.parameter_groups import layer_scales, parameter_groups
from scaleeq.training.solver import build_optimizer


def solver_config(*options):
    """Options without their "SOLVER." prefix, at a learning rate of 0.01."""
    settings = ["BASE_LR", 0.01, *options]
    return load_config("", [f"SOLVER.{item}" if i % 2 == 0 else str(item) for i, item in enumerate(settings)])


class Toy(nn.Module):
    """A backbone with norms and a position table, a head with a bias, one frozen parameter."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.conv = nn.Conv2d(3, 4, 1)
        self.backbone.norm = nn.LayerNorm(4)
        self.backbone.attention = nn.Module()
        self.backbone.attention.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)


def settings_by_name(model, groups):
    """name -> (lr, weight decay) of every parameter in the groups; a parameter in two groups is an error."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    flat = [(names[p], (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(flat) == len(dict(flat))
    return dict(flat)


def test_groups_follow_the_keys():
    model = Toy()
    options = ["WEIGHT_DECAY", 0.05, "WEIGHT_DECAY_NORM", 0.02, "WEIGHT_DECAY_EMBED", 0.01, "BACKBONE_MULTIPLIER", 0.1]
    settings = settings_by_name(model, build_optimizer(solver_config(*options), model).param_groups)
    assert settings == {
        "backbone.conv.weight": (0.001, 0.05),
        "backbone.conv.bias": (0.001, 0.05),
        "backbone.norm.weight": (0.001, 0.02),
        "backbone.norm.bias": (0.001, 0.02),
        "backbone.attention.relative_position_bias_table": (0.001, 0.01),
        "head.0.weight": (0.01, 0.05),
        "head.0.bias": (0.01, 0.05),
        "head.1.weight": (0.01, 0.02),
        "head.1.bias": (0.01, 0.02),
    }


def test_bias_keys_have_the_last_word():
    model = Toy()
    groups = parameter_groups(model, base_lr=1.0, weight_decay=0.5, weight_decay_norm=0.25, weight_decay_bias=0.125)
    assert settings_by_name(model, groups)["head.1.bias"] == (1.0, 0.125)
    groups = parameter_groups(model, base_lr=1.0, weight_decay=0.5, bias_lr_factor=2.0)
    assert settings_by_name(model, groups)["head.0.bias"] == (2.0, 0.5)


def test_groups_equal_detectron2():
    solver = pytest.importorskip("detectron2.solver", reason="the oracle is Detectron2's solver")
    model = Toy()
    decays = ["WEIGHT_DECAY", 0.0001, "WEIGHT_DECAY_EMBED", 0.0001, "WEIGHT_DECAY_BIAS", 0.3]
    cfg = solver_config(*decays, "BIAS_LR_FACTOR", 2.0)
    ours, theirs = build_optimizer(cfg, model), solver.build_optimizer(cfg, model)
    assert settings_by_name(model, ours.param_groups) == settings_by_name(model, theirs.param_groups)


def test_shared_parameters_are_listed_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    assert sum(len(group["params"]) for group in parameter_groups(model, base_lr=1.0, weight_decay=0.0)) == 3


class Segmentor(nn.Module):
    """A timm backbone where the segmentor has it, and a head of one convolution."""

    def __init__(self, name, **options):
        super().__init__()
        self.backbone = TimmBackbone(name=name, **options)
        self.head = nn.Conv2d(4, 4, 1)


def test_vectors_and_position_modules():
    """ConvNeXt's layer scale decays as norms do; Twins' position convolutions as position tables do."""
    options = ["WEIGHT_DECAY", 0.05, "WEIGHT_DECAY_NORM", 0.02, "WEIGHT_DECAY_EMBED", 0.01]
    model = Segmentor("convnext_tiny")
    settings = settings_by_name(model, build_optimizer(solver_config(*options), model).param_groups)
    assert settings["backbone.body.stages_0.blocks.0.gamma"] == (0.01, 0.02)
    assert settings["backbone.body.stages_0.blocks.0.conv_dw.weight"] == (0.01, 0.05)
    assert settings["backbone.body.stages_0.blocks.0.conv_dw.bias"] == (0.01, 0.05)
    model = Segmentor("twins_svt_small")
    settings = settings_by_name(model, build_optimizer(solver_config(*options), model).param_groups)
    assert settings["backbone.body.model.pos_block.2.proj.0.weight"] == (0.01, 0.01)


# ---------------------------------------------------------------------------------------------------- layer decay

# What mmsegmentation 1.2.2 gives ConvNeXt with decay_rate 0.9, decay_type "stage_wise", num_layers 6, worked out
# by hand from its constructor: 8 layers, the stem and the layers between stages at 0, what is not in the stages at 7.
CONVNEXT_STAGE_WISE = {
    "backbone.body.stem_0.weight": 0.4782969,
    "backbone.body.stem_1.weight": 0.4782969,
    "backbone.body.stages_0.blocks.2.mlp.fc1.weight": 0.531441,
    "backbone.body.stages_1.downsample.0.weight": 0.4782969,
    "backbone.body.stages_1.downsample.1.weight": 0.4782969,
    "backbone.body.stages_1.blocks.0.gamma": 0.59049,
    "backbone.body.stages_2.downsample.1.bias": 0.4782969,
    "backbone.body.stages_2.blocks.8.conv_dw.weight": 0.6561,
    "backbone.body.stages_3.downsample.0.bias": 0.4782969,
    "backbone.body.stages_3.blocks.1.norm.bias": 0.729,
    "backbone.level_norms.res2.weight": 1.0,
    "backbone.level_norms.res5.bias": 1.0,
    "head.weight": 1.0,
}


def test_convnext_by_stage_equals_mmsegmentation():
    model = Segmentor("convnext_tiny", level_norm=True)
    options = ["WEIGHT_DECAY", 0.05, "WEIGHT_DECAY_BIAS", 0.0, "LAYER_DECAY", 0.9, "LAYER_DECAY_LAYERS", 6]
    settings = settings_by_name(model, build_optimizer(solver_config(*options), model).param_groups)
    assert settings.keys() == dict(model.named_parameters()).keys()
    for name, scale in CONVNEXT_STAGE_WISE.items():
        assert settings[name][0] == pytest.approx(0.01 * scale, rel=1e-12), name
    expected = {0.4782969, 0.531441, 0.59049, 0.6561, 0.729, 1.0}
    assert {round(100 * lr, 9) for lr, _ in settings.values()} == expected
    parameters = dict(model.named_parameters())
    assert all((decay == 0) == (parameters[name].ndim == 1) for name, (_, decay) in settings.items())


@pytest.mark.parametrize(
    ("name", "num_layers"),
    [("convnext_tiny", 18), ("swin_tiny_patch4_window7_224", 12), ("twins_svt_small", 18), ("resnet18", 8)],
)
def test_by_block_equals_timm(name, num_layers):
    """Rates and decays of timm's groups of the classification model of the same name."""
    classifier = timm.create_model(name)
    unpulled = getattr(classifier, "no_weight_decay", set)()
    groups = param_groups_layer_decay(classifier, 0.05, layer_decay=0.8, no_weight_decay_list=unpulled)
    scales = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    decays = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    options = ["WEIGHT_DECAY", 0.05, "WEIGHT_DECAY_BIAS", 0.0, "LAYER_DECAY", 0.8, "LAYER_DECAY_BY", "block"]
    model = Segmentor(name)
    settings = settings_by_name(model, build_optimizer(solver_config(*options), model).param_groups)
    prefix = "backbone.body.model." if name.startswith("twins") else "backbone.body."
    compared = {}
    for key, parameter in classifier.named_parameters():
        for part in ("stem", "stages", "layers"):  # timm flattens these where it makes features_only models
            key = key.replace(f"{part}.", f"{part}_", 1) if key.startswith(f"{part}.") else key
        if prefix + key in settings:
            compared[prefix + key] = (pytest.approx(0.01 * scales[parameter], rel=1e-12), decays[parameter])
    ours = {key: value for key, value in settings.items() if key.startswith("backbone.")}
    assert ours == compared
    assert min(lr for lr, _ in ours.values()) == pytest.approx(0.01 * 0.8 ** (num_layers + 1), rel=1e-12)
    assert settings["head.weight"] == (0.01, 0.05)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "twins_pcpvt_small", "hrnet_w18_small"])
def test_by_stage_counts_four_stages(name):
    scales = layer_scales(TimmBackbone(name=name), rate=0.5, by="stage")
    assert set(scales.values()) == {2**-5, 2**-4, 2**-3, 2**-2, 2**-1}


def test_layer_decay_is_a_factor_on_the_backbones_rate():
    model = Segmentor("resnet18")
    options = ["LAYER_DECAY", 0.5, "BACKBONE_MULTIPLIER", 0.1]
    settings = settings_by_name(model, build_optimizer(solver_config(*options), model).param_groups)
    assert settings["backbone.body.layer4.0.conv1.weight"][0] == pytest.approx(0.01 * 0.1 * 0.5)
    assert settings["backbone.body.conv1.weight"][0] == pytest.approx(0.01 * 0.1 * 0.5**5)
    assert settings["head.weight"][0] == 0.01


def test_layer_decays_that_mean_nothing_are_refused():
    resnet = TimmBackbone(name="resnet18")
    with pytest.raises(ValueError, match="'row'; choose one of stage, block"):
        layer_scales(resnet, rate=0.9, by="row")
    with pytest.raises(ValueError, match=r"LAYER_DECAY is 1\.5"):
        layer_scales(resnet, rate=1.5, by="stage")
    with pytest.raises(ValueError, match="LAYER_DECAY_LAYERS is 3, but by stage the backbone has 4"):
        layer_scales(resnet, rate=0.9, by="stage", num_layers=3)
    with pytest.raises(ValueError, match="the layers of Conv2d are not known"):
        layer_scales(nn.Conv2d(1, 1, 1), rate=0.9, by="stage")
    with pytest.raises(ValueError, match="blocks of efficientnet_b1 are not known"):
        layer_scales(TimmBackbone(name="efficientnet_b1"), rate=0.9, by="block")
    assert layer_scales(nn.Conv2d(1, 1, 1), rate=1.0, by="stage") == {}
