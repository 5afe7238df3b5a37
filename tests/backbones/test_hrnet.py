"""HRNet and GSTO-HRNet. Oracles: timm's HRNet; GSTO's equations on timm's fuse layers; counts of the released code."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.hrnet import HighResolutionModule
from timm.models.resnet import BasicBlock
from torch import nn

from scaleeq import engine
from scaleeq.backbones import HRNetBackbone, TimmBackbone
from scaleeq.backbones import registered as backbones  # noqa: F401  (registers them)
from scaleeq.backbones.depth import layer_ids
from scaleeq.backbones.hrnet import Exchange, Transition
from scaleeq.backbones.timm import Weights
from scaleeq.config import add_scaleeq_config
from scaleeq.equalization.calibration import fusions_of
from scaleeq.layers import Gate, LogitsGate

SMALL = "hrnet_w18_small"
LEVELS = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
CLASSES = 5


def small(**arguments) -> HRNetBackbone:
    torch.manual_seed(0)
    return HRNetBackbone(**{"name": SMALL, "num_classes": CLASSES} | arguments)


def with_drawn_norms(model: nn.Module) -> nn.Module:
    """The model, its batch norms unlike those of a fresh one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.1)
    return model


# --- equality with timm ---


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A file with the weights of a whole timm model, classifier included, as timm publishes them."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "hrnet.pth"
    torch.save(with_drawn_norms(timm.create_model(SMALL)).state_dict(), path)
    return path


@pytest.mark.parametrize("training", [True, False])
def test_without_gates_it_is_timms_hrnet_bit_for_bit(checkpoint, training):
    ours = small(pretrained=Weights(torch.load(checkpoint), "the file"), gates="none", transfer="nearest")
    theirs = timm.create_model(SMALL, features_only=True, feature_location="", out_indices=(1, 2, 3, 4))
    missing, _ = theirs.load_state_dict(torch.load(checkpoint), strict=False)
    assert missing == []
    image = torch.randn(2, 3, 64, 96)
    found, expected = ours.train(training)(image), theirs.train(training)(image)
    assert list(found) == list(LEVELS)
    assert all(torch.equal(one, other) for one, other in zip(found.values(), expected, strict=True))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    if training:
        for levels in (found.values(), expected):
            sum(level.square().mean() for level in levels).backward()
        gradients = [sorted(float(p.grad.norm()) for p in model.parameters()) for model in (ours, theirs)]
        assert gradients[0] == gradients[1]


def test_pretrained_weights_are_loaded_below_the_gates(checkpoint):
    gated, plain = (
        small(pretrained=Weights(torch.load(checkpoint), "the file"), gates=gates) for gates in ("both", "none")
    )
    theirs, ours = plain.state_dict(), gated.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    added = {".".join(key.split(".")[1:3]) for key in ours.keys() - theirs.keys()}
    assert added == {
        *("stage2.0", "stage3.0", "stage4.0"),  # gates
        *("transition2.gate", "transition3.gate", "transition2.aux_head", "transition3.aux_head"),
    }


# --- GSTO's equations ---


@pytest.mark.parametrize("gated", [True, False])
def test_a_fuse_layer_sums_gated_paths(gated):
    """Equations 1 and 2 before each path of timm's fuse layers: gate, convolutions, upsampling; identity paths too."""
    torch.manual_seed(0)
    channels = {"res2": 4, "res3": 6, "res4": 8}
    theirs = with_drawn_norms(HighResolutionModule(3, BasicBlock, [1] * 3, [4, 6, 8], [4, 6, 8], "SUM")).eval().double()
    gate = Gate if gated else None
    ours = Exchange(copy.deepcopy(theirs), channels, transfer="nearest", gate=gate).eval().double()
    for module in ours.modules():
        if isinstance(module, Gate):
            nn.init.normal_(module.map[0].weight)
    levels = {name: torch.randn(2, c, 16 >> i, 24 >> i).double() for i, (name, c) in enumerate(channels.items())}
    before = [branch(x) for branch, x in zip(theirs.branches, levels.values(), strict=True)]
    found = ours(levels)
    for target, paths in zip(channels, theirs.fuse_layers, strict=True):
        total = torch.zeros((), dtype=torch.float64)
        for source, x, path in zip(channels, before, paths, strict=True):
            if gated:
                rho = ours.fusions[target].branches[source].lateral.gate.map[0].weight
                x = x * torch.sigmoid((x * rho[0]).sum(1, keepdim=True))
            total = total + path(x)
        torch.testing.assert_close(found[target], total.relu(), rtol=0, atol=1e-12)


def test_a_new_branch_starts_from_a_map_gated_by_the_logits_of_all_branches():
    """Equations 3 and 4: the logits of the released code's auxiliary head, resized to the gated map."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, stride=2, padding=1)
    transition = Transition(conv, {"res2": 4, "res3": 6}, num_classes=3, gate="paper").eval()
    theta = nn.init.normal_(transition.gate.map[0].weight)
    with_drawn_norms(transition)
    fine, coarse = torch.randn(2, 4, 9, 11), torch.randn(2, 6, 5, 6)
    new, logits = transition({"res2": fine, "res3": coarse})
    head, classifier = transition.aux_head.fusion.mix, transition.aux_head.classifier
    upsampled = F.interpolate(coarse, size=(9, 11), mode="bilinear", align_corners=False)
    hidden = F.relu(head.norm(head.conv(torch.cat((fine, upsampled), 1))))
    expected = torch.einsum("kc,ncyx->nkyx", classifier.weight[:, :, 0, 0], hidden) + classifier.bias[:, None, None]
    torch.testing.assert_close(logits, expected)
    resized = F.interpolate(expected, size=(5, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(new, conv(coarse * torch.sigmoid((resized * theta[0]).sum(1, keepdim=True))))


# --- counts ---


@functools.lru_cache
def w48(gates: str, gate: str = "reference") -> HRNetBackbone:
    with torch.device("meta"):
        return HRNetBackbone(name="hrnet_w48", gates=gates, gate=gate, num_classes=19).eval()


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def multiply_adds(model: nn.Module) -> int:
    """Of the convolutions at 512 x 1024: values written, times the inputs that each reads."""
    counts = []

    def add(conv, inputs, output):
        counts.append(output.numel() * conv.weight[0].numel())

    handles = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(torch.empty(1, 3, 512, 1024, device="meta"))
    for handle in handles:
        handle.remove()
    return sum(counts)


def test_w48_has_88_gates_of_13136_parameters():
    """Of n branches, n gates on each: C + 2 parameters (weights and batch norm). As measured on the released code."""
    gates = [module for module in w48("both").modules() if isinstance(module, Gate)]
    assert len(gates) == 4 + 4 * 9 + 3 * 16 == 88
    assert sum(count(gate) for gate in gates) == 13136
    supervised = [module for module in w48("both").modules() if isinstance(module, LogitsGate)]
    first, step = 9 * 19 + 2, 9 + 2
    assert [count(gate) for gate in supervised] == [first + step, first + 2 * step]
    assert count(w48("unsupervised")) - count(w48("none")) == 13136


def test_w48_costs_what_was_measured_on_the_released_code():
    """+0.24 % parameters and +2.55 % multiply-adds over HRNetV2-W48 with its head, at inference, 19 classes."""
    plain, gated = w48("none"), w48("both")
    assert {level: shape.channels for level, shape in gated.levels().items()} == {
        "res2": 48, "res3": 96, "res4": 192, "res5": 384,
    }  # fmt: skip
    width, pixels = 48 + 96 + 192 + 384, 128 * 256
    head = width * width + 2 * width + width * 19 + 19
    added = count(gated) - count(plain)
    assert added / (count(plain) + head) == pytest.approx(0.0024, abs=5e-5)
    assert added - 13136 == sum(
        c * c + 2 * c + 19 * c + 19 + (9 * 19 + 2) + halvings * (9 + 2) for c, halvings in ((144, 1), (336, 2))
    )
    before = multiply_adds(plain) + pixels * (width * width + width * 19)
    assert (multiply_adds(gated) - multiply_adds(plain)) / before == pytest.approx(0.0255, abs=5e-5)


# --- behaviour ---


@pytest.mark.parametrize("transfer", ["bilinear", "nearest"])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (97, 61), (20, 28)])
def test_levels_have_true_strides_at_any_size(height, width, transfer):
    backbone = small(transfer=transfer).eval()
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, height, width))
    channels = {level: shape.channels for level, shape in backbone.levels().items()}
    assert {level: shape.stride for level, shape in backbone.levels().items()} == LEVELS
    assert {level: tuple(x.shape) for level, x in features.items()} == {
        level: (2, channels[level], math.ceil(height / s), math.ceil(width / s)) for level, s in LEVELS.items()
    }
    assert all(x.isfinite().all() for x in features.values())


@pytest.mark.parametrize("gate", ["paper", "reference"])
@pytest.mark.parametrize("gates", ["both", "unsupervised", "supervised", "none"])
def test_every_parameter_is_trained(gates, gate):
    """None is dead: DistributedDataParallel runs without a search for unused parameters."""
    backbone = small(gates=gates, gate=gate)
    features = backbone(torch.randn(2, 3, 65, 47))
    logits = features.pop("aux_logits", {})
    assert {name: tuple(x.shape) for name, x in logits.items()} == dict.fromkeys(
        backbone.aux_loss_weights, (2, CLASSES, 17, 12)
    )
    assert list(logits) == (["stage2", "stage3"] if gates in ("both", "supervised") else [])
    sum(x.square().mean() for x in features.values()).backward()  # the logits train through the gates, too
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert "aux_logits" not in backbone.eval()(torch.randn(1, 3, 32, 32))


def test_one_class():
    logits = small(num_classes=1)(torch.randn(2, 3, 32, 32))["aux_logits"]
    assert {tuple(x.shape) for x in logits.values()} == {(2, 1, 8, 8)}


def test_copies_and_checkpoints():
    backbone = small(gate="reference")
    image = torch.randn(2, 3, 64, 64)
    backbone(image)  # statistics of their own
    other = HRNetBackbone(name=SMALL, num_classes=CLASSES, gate="reference")
    other.load_state_dict(backbone.state_dict())
    expected = backbone.eval()(image)
    for twin in (other.eval(), copy.deepcopy(backbone)):
        assert all(torch.equal(x, expected[level]) for level, x in twin(image).items())


def test_keys_of_checkpoints_are_stable():
    keys = set(small(gate="reference").state_dict())
    fuse, transition = "body.stage4.0.fusions.res3.branches", "body.transition3"
    assert {
        *("body.stem.0.weight", "body.layer1.0.conv1.weight", "body.transition1.res3.0.0.weight"),
        *(f"{fuse}.res2.lateral.gate.map.0.weight", f"{fuse}.res2.lateral.convs.0.0.weight"),
        *(f"{fuse}.res3.lateral.gate.map.1.running_var", f"{fuse}.res5.lateral.convs.1.bias"),
        *(f"{transition}.aux_head.fusion.mix.conv.weight", f"{transition}.aux_head.classifier.bias"),
        *(f"{transition}.gate.map.6.weight", f"{transition}.conv.0.0.weight"),
        "body.stage4.0.branches.res5.1.bn2.weight",
    } <= keys


def test_statistics_see_its_fusions():
    fusions = fusions_of(small(), equalized=False)
    assert [len(fusion.branches) for fusion in fusions.values()] == [2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4]
    assert fusions_of(small()) == {}


def test_bfloat16_under_autocast():
    backbone = small().eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = backbone(image)
    for level, x in found.items():
        assert float((x.float() - expected[level]).norm() / expected[level].norm()) < 0.05


@pytest.mark.slow
def test_export_of_w18():
    backbone = HRNetBackbone(name="hrnet_w18", num_classes=CLASSES).eval()
    image = torch.randn(1, 3, 64, 96)
    exported = torch.export.export(backbone, (image,)).module()
    with torch.no_grad():
        for level, x in backbone(image).items():
            torch.testing.assert_close(exported(image)[level], x)


# --- freezing and depth ---


@pytest.mark.parametrize(
    ("freeze_at", "trained"),
    [
        (0, {"stem", "layer1", "transition1", "stage2", "transition2", "stage3", "transition3", "stage4"}),
        (2, {"transition1", "stage2", "transition2", "stage3", "transition3", "stage4"}),
        (3, {"transition2", "stage3", "transition3", "stage4"}),
        (5, set()),
    ],
)
def test_frozen_stages(freeze_at, trained):
    backbone = small(freeze_at=freeze_at, gate="reference")
    names = {name.split(".")[1] for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert names == trained
    before = copy.deepcopy(backbone.state_dict())
    backbone.train()(torch.randn(2, 3, 64, 64))
    changed = {name.split(".")[1] for name, x in backbone.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == trained


def test_depth_by_stage_is_that_of_timms_hrnet():
    ours, _ = layer_ids(small(gates="none"), "stage")
    theirs, _ = layer_ids(TimmBackbone(name=SMALL), "stage")
    assert sorted(ours.values()) == sorted(theirs.values())


# --- refusals ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet50"}, r"MODEL\.TIMM\.NAME is 'resnet50'.*hrnet_w18.*hrnet_w48"),
        ({"name": "hrnet_w17"}, "no model 'hrnet_w17'"),
        ({"gates": "all"}, r"MODEL\.HRNET\.GATES is 'all'; choose one of both, unsupervised, supervised, none"),
        ({"gate": "soft"}, r"MODEL\.GATE is 'soft'; choose one of paper, reference"),
        ({"transfer": "cubic"}, "transfer is 'cubic'"),
        ({"aux_loss_weights": [0.5]}, r"AUX_LOSS_WEIGHTS is \[0\.5\]; give one for each of"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"freeze_at": 6}, "FREEZE_AT is 6"),
    ],
)
def test_wrong_values_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


# --- by config ---


def from_config(key: str, value: object) -> HRNetBackbone:
    cfg = engine.get_cfg()
    if "TIMM" not in cfg.MODEL:
        add_scaleeq_config(cfg)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_gsto_hrnet_backbone"])
    cfg.merge_from_list(["MODEL.TIMM.NAME", SMALL, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", CLASSES, key, value])
    return engine.build_backbone(cfg)


@pytest.mark.parametrize(("gates", "kinds"), [("none", set()), ("unsupervised", {Gate}), ("supervised", {LogitsGate})])
def test_built_from_a_config(gates, kinds):
    backbone = from_config("MODEL.HRNET.GATES", gates)
    assert isinstance(backbone, HRNetBackbone) and backbone.name == SMALL
    assert {type(module) for module in backbone.modules()} & {Gate, LogitsGate} == kinds
    assert bool(backbone.aux_loss_weights) == (gates == "supervised")


@pytest.mark.parametrize(
    ("key", "value"),
    [("MODEL.TIMM.DROP_PATH_RATE", 0.1), ("MODEL.TIMM.LEVEL_NORM", True), ("MODEL.TIMM.OUTPUT_STRIDE", 16)],
)
def test_keys_of_parts_that_an_hrnet_lacks_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value}, but an HRNet has no such part"):
        from_config(key, value)
