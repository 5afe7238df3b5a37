"""Frozen stages. Oracles: autograd, torchvision's FrozenBatchNorm2d, Detectron2's ResNet."""

from __future__ import annotations

import copy

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from scaleeq import engine
from scaleeq.backbones import TimmBackbone
from scaleeq.backbones.freezing import stages_in_order

LEVELS = ("res2", "res3", "res4", "res5")
# Models that run one stage after the other, and HRNet, all of whose levels need all of its stages.
SEQUENTIAL = (
    "resnet18",
    "swin_tiny_patch4_window7_224",
    "twins_svt_small",
    "twins_pcpvt_small",
    "convnext_tiny",
    "efficientnet_b1",
)


@pytest.mark.parametrize("name", SEQUENTIAL)
@pytest.mark.parametrize("freeze_at", [1, 3])
def test_frozen_stages_are_the_first_ones(name, freeze_at):
    """Levels up to the last frozen stage are constant, later ones are trained, and every other parameter is trained."""
    backbone = TimmBackbone(name=name, freeze_at=freeze_at)
    features = backbone(torch.randn(2, 3, 65, 47))
    assert [features[level].requires_grad for level in LEVELS] == [stage > freeze_at for stage in (2, 3, 4, 5)]
    sum(feature.square().mean() for feature in features.values()).backward()
    frozen = [key for key, parameter in backbone.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert [key for key, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


def test_frozen_names_of_resnet():
    backbone = TimmBackbone(name="resnet18", freeze_at=2)
    frozen = {key.split(".")[1] for key, parameter in backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"}
    trained = {key.split(".")[1] for key, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}


def test_frozen_names_of_hrnet():
    backbone = TimmBackbone(name="hrnet_w18_small", freeze_at=3)
    trained = {key.split(".")[1] for key, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained == {"transition2", "stage3", "transition3", "stage4"}


def test_everything_can_be_frozen():
    for name in ("resnet18", "twins_svt_small", "hrnet_w18_small"):
        backbone = TimmBackbone(name=name, freeze_at=5)
        assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_what_lies_between_two_levels_belongs_to_the_later():
    names = [
        "stem",
        "blocks",
        "blocks.0",
        "blocks.1",
        "blocks.1.conv",
        "blocks.2",
        "blocks.3",
        "blocks.4",
        "blocks.5",
        "blocks.10",
    ]
    assert stages_in_order(names, ["blocks.1", "blocks.2", "blocks.4", "blocks.5"]) == {
        "stem": 1, "blocks": 1, "blocks.0": 1, "blocks.1": 2, "blocks.1.conv": 2, "blocks.2": 3, "blocks.3": 4,
        "blocks.4": 4, "blocks.5": 5, "blocks.10": 5,
    }  # fmt: skip


def test_a_frozen_stage_equals_frozen_batch_norm():
    """In training mode, twice, with other statistics than the initial ones: torchvision's FrozenBatchNorm2d."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name="resnet18", freeze_at=2)
    reference = copy.deepcopy(backbone)
    for key, buffer in backbone.body.named_buffers():
        if key.endswith("running_mean") or key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    for parent in (reference.body, *reference.body.layer1):
        for key in ("bn1", "bn2"):
            if hasattr(parent, key):
                setattr(parent, key, FrozenBatchNorm2d(getattr(parent, key).num_features))
    reference.body.load_state_dict(backbone.body.state_dict())
    before = copy.deepcopy(backbone.state_dict())
    for _ in range(2):
        image = torch.randn(2, 3, 48, 48)
        torch.testing.assert_close(backbone.train()(image)["res2"], reference(image)["res2"])
    changed = {
        key.split(".")[1] for key, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[key])
    }
    assert changed == {"layer2", "layer3", "layer4"}  # the running statistics of the stages that are trained


def test_modes():
    backbone = TimmBackbone(name="swin_tiny_patch4_window7_224", drop_path_rate=0.9, freeze_at=5)
    assert backbone.training
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(backbone(image)["res5"], backbone(image)["res5"])  # stochastic depth of frozen stages is off
    assert not any(module.training for module in backbone.eval().modules())


@pytest.mark.parametrize("freeze_at", [-1, 6])
def test_numbers_outside_the_stages_are_refused(freeze_at):
    with pytest.raises(ValueError, match=f"FREEZE_AT is {freeze_at}"):
        TimmBackbone(name="resnet18", freeze_at=freeze_at)


@pytest.mark.skipif(engine.NAME != "detectron2", reason="compares with Detectron2's ResNet")
@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at_means_what_it_means_in_detectron2(freeze_at):
    cfg = engine.get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = list(LEVELS)
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    ours, theirs = TimmBackbone(name="resnet18", freeze_at=freeze_at), engine.build_backbone(cfg)
    trained_weights = [
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad and parameter.dim() == 4)
        for model in (ours, theirs)
    ]
    assert trained_weights[0] == trained_weights[1]
