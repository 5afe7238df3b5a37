"""UPerHead and FCNHead. Oracle: mmsegmentation 1.2.2, recorded in goldens/ (how: record_mmseg_heads.py)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scaleeq import calibrate
from scaleeq.fusion import EqualizerSpec
from scaleeq.heads import FCNHead, UPerHead
from scaleeq.heads.base import Level
from tests.heads.reference_weights import reference_inputs, reference_state

GOLDENS = Path(__file__).parent / "goldens"
CASES = json.loads((GOLDENS / "mmseg_heads.json").read_text())["heads"]
LEVELS = ["res2", "res3", "res4", "res5"]
STRIDES = [4, 8, 16, 32]

# Our names -> mmsegmentation's, in order; both end in conv, norm or bn, and the tensor's own name.
RENAMES = [
    (r"^classifier\.", "conv_seg."),
    (r"^context\.branches\.pool(\d)\.lateral\.1\.", lambda m: f"psp_modules.{[1, 2, 3, 6].index(int(m[1]))}.1."),
    (r"^context\.mix\.", "bottleneck."),
    (r"^pyramid\.merges\.res(\d)\.branches\.lateral\.lateral\.", lambda m: f"lateral_convs.{int(m[1]) - 2}."),
    (r"^pyramid\.outputs\.res(\d)\.", lambda m: f"fpn_convs.{int(m[1]) - 2}."),
    (r"^fusion\.mix\.", "fpn_bottleneck."),
    (r"^body\.branches\.convs\.lateral\.(\d)\.", r"convs.\1."),
    (r"^body\.mix\.", "conv_cat."),
    (r"^body\.(\d)\.", r"convs.\1."),
    (r"\.norm\.", ".bn."),
]


def mmseg_name(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def make_head(case: dict) -> nn.Module:
    levels = {name: Level(c, s) for name, c, s in zip(LEVELS, case["in_channels"], STRIDES, strict=True)}
    if case["head"] == "UPerHead":
        return UPerHead(input_shape=levels, channels=case["channels"], num_classes=case["num_classes"])
    return FCNHead(
        input_shape={"res4": levels["res4"]},
        channels=case["channels"],
        num_classes=case["num_classes"],
        num_convs=case["options"]["num_convs"],
        concat_input=case["options"]["concat_input"],
    )


@pytest.mark.parametrize("case", CASES)
def test_parameter_count_is_mmsegmentations(case):
    with torch.device("meta"):
        head = make_head(CASES[case])
    assert sum(p.numel() for p in head.parameters()) == CASES[case]["parameters"]


@pytest.mark.parametrize("output", [name for case in CASES.values() for name in case["outputs"]])
def test_logits_are_mmsegmentations_with_mapped_weights(output):
    case = CASES[output.rsplit(".", 1)[0]]
    head = make_head(case).eval()
    reference = reference_state(case["state_dict"])
    names = {name: mmseg_name(name) for name in head.state_dict()}
    assert set(names.values()) == set(reference)
    head.load_state_dict({name: reference[other] for name, other in names.items()})
    inputs = reference_inputs(case["in_channels"], case["outputs"][output]["levels"])
    with torch.no_grad():
        logits = head.logits(dict(zip(LEVELS, inputs, strict=True)))
    expected = torch.from_numpy(np.load(GOLDENS / "mmseg_heads.npz")[output])
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


CHANNELS = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}


def make_uper(**options) -> UPerHead:
    torch.manual_seed(0)
    levels = {name: Level(CHANNELS[name], s) for name, s in zip(LEVELS, STRIDES, strict=True)}
    return UPerHead(input_shape=levels, channels=8, **{"num_classes": 3, **options})


def make_features(height: int, width: int, batch: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    sizes = {name: (-(-height // s), -(-width // s)) for name, s in zip(LEVELS, STRIDES, strict=True)}
    return {name: torch.randn(batch, CHANNELS[name], *sizes[name]) for name in LEVELS}


@pytest.mark.parametrize("size", [(64, 96), (61, 97), (33, 31), (5, 3)])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_logits_have_the_finest_levels_size(size, num_classes):
    head = make_uper(num_classes=num_classes).eval()
    features = make_features(*size)
    assert head.logits(features).shape == (2, num_classes, *features["res2"].shape[-2:])


@pytest.mark.parametrize("implementation", [None, "module", "reparametrize"])
def test_one_image_trains_although_the_pool_leaves_one_value_per_channel(implementation):
    """The 1x1 pooled map has no batch statistics: it is normalised by the running ones and its weights train."""
    spec = None if implementation is None else EqualizerSpec(implementation=implementation)
    head = make_uper(equalizers={"head": spec}).train()
    if spec:
        report = calibrate(head, [make_features(64, 64)] * 2, num_images=-1)
        assert report.fusions["fusion"]["res2"].num_images == 4
    pooled = head.context.branches["pool1"].lateral[1]
    before = {key: value.clone() for key, value in pooled.norm.state_dict().items()}
    _, losses = head(make_features(64, 64, batch=1), torch.zeros(1, 64, 64, dtype=torch.long))
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
    assert pooled.conv.weight.grad.abs().sum() > 0
    assert all(torch.equal(value, before[key]) for key, value in pooled.norm.state_dict().items())


@pytest.mark.parametrize(("scope", "count"), [("none", 0), ("head", 2), ("all", 5)])
def test_equalizers_sit_on_the_fusions_that_the_scope_names(scope, count):
    spec = EqualizerSpec()
    equalizers = {"none": {}, "head": {"head": spec}, "all": {"head": spec, "pyramid": spec}}[scope]
    head = make_uper(equalizers=equalizers)
    owners = {key.split(".equalizers.")[0] for key in head.state_dict() if ".equalizers." in key}
    assert len(owners) == count
    assert {"context", "fusion"} <= owners or scope == "none"


@pytest.mark.parametrize("combine", ["concat", "sum"])
@pytest.mark.parametrize("transfer", ["bilinear", "nearest"])
def test_variants_differ_and_keep_their_shape(combine, transfer):
    head = make_uper(combine=combine, transfers={"fusion": transfer, "pyramid": transfer}).eval()
    features = make_features(61, 97)
    logits = head.logits(features)
    assert logits.shape == (2, 3, 16, 25)
    if (combine, transfer) != ("concat", "bilinear"):
        assert not torch.allclose(logits, make_uper().eval().logits(features))


def test_checkpoint_keys_are_stable():
    """Renaming a module orphans every checkpoint: such a change must come with a mapping."""
    names = {re.sub(r"\.(conv|norm)\..*", "", name) for name in make_uper().state_dict()}
    pools = {f"context.branches.pool{k}.lateral.1" for k in (1, 2, 3, 6)}
    laterals = {f"pyramid.merges.res{i}.branches.lateral.lateral" for i in (2, 3, 4)}
    outputs = {f"pyramid.outputs.res{i}" for i in (2, 3, 4)}
    rest = {"context.mix", "fusion.mix", "classifier.weight", "classifier.bias"}
    assert names == pools | laterals | outputs | rest


def test_training_without_targets_is_refused():
    with pytest.raises(ValueError, match="needs targets"):
        make_uper().train()(make_features(64, 64))
    with pytest.raises(ValueError, match="NUM_CLASSES is 0"):
        make_uper(num_classes=0)
