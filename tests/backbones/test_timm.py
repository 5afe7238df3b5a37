"""TimmBackbone: levels, sizes, weights, drop path. Oracles: torchvision's ResNet, timm's models of fixed size."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys

import pytest
import timm
import torch
import torchvision

from scaleeq import engine
from scaleeq.backbones import TimmBackbone
from scaleeq.backbones.registered import build_timm_backbone
from scaleeq.config import add_scaleeq_config

CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "swin_tiny_patch4_window7_224": (96, 192, 384, 768),
    "twins_svt_small": (64, 128, 256, 512),
    "twins_pcpvt_small": (64, 128, 320, 512),
    "convnext_tiny": (96, 192, 384, 768),
    "efficientnet_b1": (24, 40, 112, 320),
    "hrnet_w48": (48, 96, 192, 384),
}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


@functools.lru_cache(maxsize=2)
def backbone_of(name: str) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(name=name)


@pytest.mark.parametrize("name", CHANNELS)
def test_levels_have_true_strides_at_any_size(name):
    """(20, 28) is smaller than one window of Swin and Twins, (97, 61) is odd at every stride."""
    backbone = backbone_of(name).eval()
    shape = backbone.levels()
    assert {level: spec.stride for level, spec in shape.items()} == STRIDES
    assert tuple(spec.channels for spec in shape.values()) == CHANNELS[name]
    for height, width in ((64, 96), (97, 61), (20, 28)):
        with torch.no_grad():
            features = backbone(torch.randn(2, 3, height, width))
        expected = {
            level: (2, channels, math.ceil(height / stride), math.ceil(width / stride))
            for (level, stride), channels in zip(STRIDES.items(), CHANNELS[name], strict=True)
        }
        assert {level: tuple(feature.shape) for level, feature in features.items()} == expected
        assert all(feature.is_contiguous() and feature.isfinite().all() for feature in features.values())


@pytest.mark.parametrize("name", CHANNELS)
def test_every_parameter_is_trained(name):
    """No classifier, final norm or unused branch is left in: such parameters would stop DistributedDataParallel."""
    backbone = backbone_of(name).train()
    backbone.zero_grad(set_to_none=True)
    sum(feature.square().mean() for feature in backbone(torch.randn(2, 3, 65, 47)).values()).backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_padding_is_used_only_where_a_model_needs_it():
    """ResNet rounds sizes up by itself and sees the image as it is: equal to torchvision's at an odd size."""
    backbone = backbone_of("resnet18").eval()
    reference = torchvision.models.resnet18().eval()
    missing, unexpected = reference.load_state_dict(backbone.body.state_dict(), strict=False)
    assert missing == ["fc.weight", "fc.bias"] and unexpected == []
    nodes = {"layer1": "res2", "layer2": "res3", "layer3": "res4", "layer4": "res5"}
    extractor = torchvision.models._utils.IntermediateLayerGetter(reference, nodes)
    image = torch.randn(1, 3, 97, 61)
    with torch.no_grad():
        features, expected = backbone(image), extractor(image)
    for level, feature in features.items():
        torch.testing.assert_close(feature, expected[level])


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["resnet50", "tf_efficientnet_b0"])
def test_dilated_instead_of_strided(name, output_stride):
    backbone = TimmBackbone(name=name, output_stride=output_stride).eval()
    strides = {level: min(stride, output_stride) for level, stride in STRIDES.items()}
    assert {level: spec.stride for level, spec in backbone.levels().items()} == strides
    image = torch.randn(1, 3, 61, 97)
    with torch.no_grad():
        features = backbone(image)
    assert {level: tuple(feature.shape[-2:]) for level, feature in features.items()} == {
        level: (math.ceil(61 / stride), math.ceil(97 / stride)) for level, stride in strides.items()
    }
    if name == "resnet50":
        theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, output_stride == 8, True]).eval()
        theirs.load_state_dict(backbone.body.state_dict(), strict=False)
        extract = torchvision.models._utils.IntermediateLayerGetter(theirs, {"layer4": "res5"})
        with torch.no_grad():
            torch.testing.assert_close(features["res5"], extract(image)["res5"])


def test_output_strides_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="OUTPUT_STRIDE is 4; choose one of 8, 16, 32"):
        TimmBackbone(name="resnet18", output_stride=4)
    with pytest.raises(ValueError, match="swin_tiny_patch4_window7_224 cannot dilate"):
        TimmBackbone(name="swin_tiny_patch4_window7_224", output_stride=16)


def test_swin_equals_the_model_that_timm_makes_for_one_size():
    name = "swin_tiny_patch4_window7_224"
    backbone = backbone_of(name).eval()
    fixed = timm.create_model(name, features_only=True, img_size=256).eval()
    fixed.load_state_dict(backbone.body.state_dict(), strict=False)  # timm's attention masks are of one size
    assert {key for key, _ in fixed.named_parameters()} == {key for key, _ in backbone.body.named_parameters()}
    image = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        features, expected = backbone(image), fixed(image)
    for feature, reference in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(feature, reference.permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_tiny_patch4_window7_224"])
def test_level_norms(name):
    """Each level as torch's LayerNorm over its channels leaves it; nothing before it changes."""
    torch.manual_seed(0)
    normed = TimmBackbone(name=name, level_norm=True).eval()
    plain = backbone_of(name).eval()
    plain.load_state_dict({key: value for key, value in normed.state_dict().items() if key.startswith("body.")})
    image = torch.randn(2, 3, 97, 61)
    with torch.no_grad():
        levels, expected = normed(image), plain(image)
    for level, feature in levels.items():
        reference = torch.nn.functional.layer_norm(expected[level].permute(0, 2, 3, 1), (feature.shape[1],), eps=1e-6)
        torch.testing.assert_close(feature, reference.permute(0, 3, 1, 2))


def test_batch_of_one_channel():
    backbone = TimmBackbone(name="resnet18.a1_in1k", in_channels=1).eval()
    assert backbone(torch.zeros(1, 1, 33, 33))["res5"].shape == (1, 512, 2, 2)


def test_construction_leaves_statistics_untouched():
    fresh = timm.create_model("resnet18", features_only=True)
    buffers = dict(TimmBackbone(name="resnet18").body.named_buffers())
    assert all(torch.equal(buffer, buffers[key]) for key, buffer in fresh.named_buffers())


# --- stochastic depth ---


def test_drop_path():
    name = "swin_tiny_patch4_window7_224"
    image = torch.randn(1, 3, 64, 64)
    plain = backbone_of(name).train()  # timm's default for this model is 0.1
    assert torch.equal(plain(image)["res5"], plain(image)["res5"])
    dropping = TimmBackbone(name=name, drop_path_rate=0.5)
    rates = [module.drop_prob for module in dropping.modules() if isinstance(module, timm.layers.DropPath)]
    assert rates == sorted(rates) and rates[-1] == pytest.approx(0.5)
    assert not torch.equal(dropping(image)["res5"], dropping(image)["res5"])
    dropping.eval()
    assert torch.equal(dropping(image)["res5"], dropping(image)["res5"])


@pytest.mark.parametrize("name", ["hrnet_w18_small", "vgg11"])
def test_drop_path_is_refused_where_a_model_has_none(name):
    with pytest.raises(ValueError, match=f"{name} has no stochastic depth"):
        TimmBackbone(name=name, drop_path_rate=0.1)


# --- refusals ---


def test_unknown_names_list_the_nearest():
    with pytest.raises(ValueError, match=r"no model 'resnet_50'.*resnet50"):
        TimmBackbone(name="resnet_50")


def test_models_without_four_levels_are_refused():
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 have strides \[16, 16, 16, 16\]"):
        TimmBackbone(name="vit_tiny_patch16_224")


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_drop_path_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match="DROP_PATH_RATE"):
        TimmBackbone(name="resnet18", drop_path_rate=rate)


# --- pretrained weights ---


def of_file(name: str, path: str, in_channels: int = 3) -> TimmBackbone:
    cfg = config()
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.PRETRAINED_FILE = name, path
    return build_timm_backbone(cfg, engine.ShapeSpec(channels=in_channels))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_a_local_file(tmp_path, name, suffix):
    model = timm.create_model(name)
    path = str(tmp_path / f"weights.{suffix}")
    if suffix == "pth":
        torch.save({"state_dict": model.state_dict()}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(model.state_dict(), path)
    body = of_file(name, path).body
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in body.state_dict().items())
    gray = of_file(name, path, in_channels=1).body
    assert torch.equal(next(gray.parameters()), next(model.parameters()).sum(1, keepdim=True))


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "hrnet_w18_small"])
def test_a_file_of_another_model_is_refused(tmp_path, name):
    path = str(tmp_path / "weights.pth")
    torch.save(timm.create_model("resnet18").state_dict(), path)
    with pytest.raises(ValueError, match=f"does not fit {name}"):
        of_file(name, path)


def test_a_file_whose_weights_have_other_names_is_refused(tmp_path):
    """timm skips what it does not know. Biases that are all zero, in the file as in a fresh model, prove nothing."""
    path = str(tmp_path / "weights.pth")
    weights = timm.create_model("efficientnet_b0").state_dict()
    torch.save({f"encoder.{name}": tensor for name, tensor in weights.items()}, path)
    with pytest.raises(ValueError, match="does not fit efficientnet_b0"):
        of_file("efficientnet_b0", path)


def changed(model, change):
    state = model.state_dict()
    state["layer1.0.conv1.weight"] = change(state["layer1.0.conv1.weight"])
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weight: weight.index_fill(0, torch.tensor([3]), torch.nan),
            r"layer1\.0\.conv1\.weight of .* is not finite",
        ),
        (
            lambda weight: torch.full_like(weight, 1e300, dtype=torch.float64),
            r"layer1\.0\.conv1\.weight of .* is not fin",
        ),
        (lambda weight: weight.long(), r"layer1\.0\.conv1\.weight is torch\.int64"),
        (lambda weight: weight.to_sparse(), r"layer1\.0\.conv1\.weight is .*sparse"),
        (lambda weight: "text", "is not a checkpoint"),
    ],
)
def test_a_file_of_other_numbers_is_refused_by_name(tmp_path, change, message):
    path = str(tmp_path / "weights.pth")
    torch.save({"state_dict": changed(timm.create_model("resnet18"), change)}, path)
    with pytest.raises(ValueError, match=rf"weights\.pth.*{message}"):
        of_file("resnet18", path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_damaged_file_is_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    model = timm.create_model("resnet18")
    if suffix == "pth":
        torch.save(model.state_dict(), path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        pytest.importorskip("safetensors.torch").save_file(model.state_dict(), path)
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"weights\.{suffix}.* is (damaged|no whole safetensors file)"):
        of_file("resnet18", str(path))


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        of_file("resnet18", "nowhere.pth")


def test_a_hub_out_of_reach_is_explained(tmp_path):
    """In a process of its own, with the hub's client switched to offline and an empty cache."""
    code = "from scaleeq.backbones import TimmBackbone; TimmBackbone(name='resnet18', pretrained=True)"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "TORCH_HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    message = result.stderr[result.stderr.rindex("OSError: MODEL.TIMM.PRETRAINED: timm could not get") :]
    assert "resnet18" in message and "MODEL.TIMM.PRETRAINED_FILE" in message


# --- by config ---


def config():
    cfg = engine.get_cfg()
    if "TIMM" not in cfg.MODEL:
        add_scaleeq_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_built_from_a_config():
    cfg = config()
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    cfg.MODEL.TIMM.NAME = "resnet18"
    cfg.MODEL.TIMM.DROP_PATH_RATE = 0.25
    backbone = engine.build_backbone(cfg)
    assert isinstance(backbone, TimmBackbone) and isinstance(backbone, engine.Backbone)
    assert [module.drop_prob for module in backbone.modules() if isinstance(module, timm.layers.DropPath)][-1] == 0.25
    assert not backbone.body.conv1.weight.requires_grad
    assert backbone.size_divisibility == 0


@pytest.mark.skipif(engine.NAME != "detectron2", reason="a backbone of Detectron2's own")
def test_detectron2s_resnet_has_the_same_levels():
    cfg = config()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    backbone = engine.build_backbone(cfg).eval()
    assert {level: spec.stride for level, spec in backbone.output_shape().items()} == STRIDES
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 97, 61))
    expected = {level: (math.ceil(97 / stride), math.ceil(61 / stride)) for level, stride in STRIDES.items()}
    assert {level: tuple(feature.shape[-2:]) for level, feature in features.items()} == expected
