"""The questions that every head answers: shapes, training on one image, equalizers, folding, copies, checkpoint names.

Oracles: one form of a head against another. Equality with mmsegmentation and Detectron2 is in test_mmseg_heads.py and
test_semantic_fpn.py, what a head is built from and refuses in test_head_configs.py.
"""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _NormBase

from scaleeq import calibrate, fold_equalizers
from scaleeq.decoders import (
    ASPP,
    FCN,
    PSP,
    AtrousOptions,
    FusionOptions,
    PoolingOptions,
    PyramidOptions,
    SemanticFPN,
    SepASPP,
    UPer,
)
from scaleeq.equalization import EqualizerSpec
from scaleeq.equalization.spec import IMPLEMENTATIONS
from scaleeq.layers import Gate, Level, SupervisedGate, batch_norm, norm_factory
from scaleeq.tasks.head import SegmentationHead
from scaleeq.tasks.losses.options import LossOptions
from scaleeq.tasks.losses.segmentation import SegmentationLoss
from tests.decoders.heads import head_of
from tests.equalized import equalized

CHANNELS = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}

# Name -> class, levels, options, and its Fusions (branches that calibration measures) in the order in which they run.
HEADS: dict[str, tuple] = {
    "uper": (UPer, [*CHANNELS], {}, ["context", "fusion"]),
    "psp": (PSP, ["res5"], {}, ["fusion"]),
    "aspp": (ASPP, ["res5"], {}, ["fusion"]),
    "sep_aspp": (SepASPP, ["res2", "res5"], {"widths": {"low_level": 5}}, ["context", "fusion"]),
    "fcn": (FCN, ["res5"], {}, ["body"]),
    "fcn_levels": (FCN, [*CHANNELS], {}, ["fusion"]),
    "semantic_fpn": (
        SemanticFPN,
        [*CHANNELS],
        {"norm": batch_norm, "pyramid": PyramidOptions(name="fpn", channels=12)},
        ["fusion"],
    ),
}


CONTEXTS = {"uper": PoolingOptions, "psp": PoolingOptions, "aspp": AtrousOptions, "sep_aspp": AtrousOptions}
SUPERVISED = FusionOptions(transfer="supervised_gated", gate_channels=3)


def make_head(
    name: str, *, spec: EqualizerSpec | None = None, scope="head", channels: int = 8, **options
) -> SegmentationHead:
    torch.manual_seed(0)
    kind, levels, own, _ = HEADS[name]
    shapes = {level: Level(CHANNELS[level], STRIDES[level]) for level in levels}
    head = head_of(kind, shapes, channels, **{**own, **options})
    return equalized(head, spec, scope)


def make_features(height: int, width: int, batch: int = 2, dtype=torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        level: torch.randn(batch, CHANNELS[level], -(-height // stride), -(-width // stride), dtype=dtype)
        for level, stride in STRIDES.items()
    }


@pytest.mark.parametrize("size", [(64, 96), (61, 97), (5, 3)])
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("name", HEADS)
def test_logits_have_the_finest_levels_size(name, num_classes, size):
    head = make_head(name, num_classes=num_classes).eval()
    features = make_features(*size)
    finest = HEADS[name][1][0]
    assert head.common_stride == STRIDES[finest]
    assert head.logits(features).shape == (2, num_classes, *features[finest].shape[-2:])
    results, losses = head(features)
    assert losses == {}
    assert results.shape[-2:] == tuple(side * STRIDES[finest] for side in features[finest].shape[-2:])


@pytest.mark.parametrize("implementation", ["", "module", "reparametrize"])
@pytest.mark.parametrize("name", HEADS)
def test_one_image_trains_every_parameter(name, implementation):
    """Its map of one cell has no batch statistics: it is normalised by the running ones, and its weights train."""
    head = make_head(name, spec=EqualizerSpec(implementation=implementation) if implementation else None).train()
    if implementation:
        calibrate(head, [make_features(64, 64)] * 2, num_images=-1)
    pools = {path: m for path, m in head.named_modules() if re.search(r"pool1?\.lateral\.1\.norm$", path)}
    assert bool(pools) == (name in ("uper", "psp", "aspp", "sep_aspp"))
    before = {path: copy.deepcopy(pool.state_dict()) for path, pool in pools.items()}
    _, losses = head(make_features(64, 64, batch=1), torch.zeros(1, 64, 64, dtype=torch.long))
    losses["loss_sem_seg"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())
    for path, pool in pools.items():
        assert all(torch.equal(value, before[path][key]) for key, value in pool.state_dict().items())
        assert pool.bias.grad.abs().sum() > 0


@pytest.mark.parametrize("granularity", ["branch", "channel"])
@pytest.mark.parametrize("name", HEADS)
def test_equalizers_change_the_head_and_fold_exactly(name, granularity):
    """Initializers have no weight to go to in the semantic FPN's plain sum; "init" drops what the norm removes."""
    features = make_features(61, 97, dtype=torch.float64)
    logits = {}
    for implementation in IMPLEMENTATIONS:
        spec = EqualizerSpec(implementation=implementation, granularity=granularity)
        if name == "semantic_fpn" and implementation.startswith("init"):
            with pytest.raises(ValueError, match="Sum has no weights"):
                make_head(name, spec=spec)
            continue
        head = make_head(name, spec=spec).double()
        report = calibrate(head, [features, make_features(64, 64, dtype=torch.float64)], num_images=-1)
        assert list(report.fusions) == HEADS[name][3]
        logits[implementation] = head.eval().logits(features)
        folded = fold_equalizers(head)
        assert not [key for key in folded.state_dict() if "equalizer" in key]
        torch.testing.assert_close(folded.logits(features), logits[implementation], rtol=0, atol=1e-12)
    for implementation in logits.keys() - {"init"}:
        torch.testing.assert_close(logits[implementation], logits["module"], rtol=0, atol=1e-12)
    plain = make_head(name).double().eval().logits(features)
    assert all(not torch.allclose(plain, each) for each in logits.values())


@pytest.mark.parametrize("name", ["uper", "semantic_fpn"])
@pytest.mark.parametrize("pyramid", ["fpn", "fapn", "bifpn"])
def test_the_pyramid_is_equalized_too_where_the_scope_says_all(name, pyramid):
    options = PyramidOptions(name=pyramid, channels=8)
    head = make_head(name, pyramid=options, spec=EqualizerSpec(), scope="all").double()
    features = make_features(64, 96, dtype=torch.float64)
    report = calibrate(head, [features], num_images=-1)
    own = [fusion for fusion in report.fusions if not fusion.startswith("pyramid.")]
    assert own == HEADS[name][3]
    assert len(report.fusions) - len(own) == (6 if pyramid == "bifpn" else 3)
    head.eval()
    torch.testing.assert_close(fold_equalizers(head).logits(features), head.logits(features), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", HEADS)
def test_a_copy_behind_a_training_step_computes_the_same(name):
    options = {}
    if name in ("uper", "fcn_levels", "sep_aspp"):
        options["fusion"] = SUPERVISED
    if name in CONTEXTS:
        options["context"] = CONTEXTS[name](gate="paper")
    head = make_head(name, spec=EqualizerSpec(), **options).train()
    _, losses = head(make_features(64, 64), torch.zeros(2, 64, 64, dtype=torch.long))
    sum(losses.values()).backward()
    copied = copy.deepcopy(head).eval()
    assert torch.equal(copied.logits(make_features(61, 97)), head.eval().logits(make_features(61, 97)))
    copied.load_state_dict(head.state_dict())


POOLS = {f"branches.pool{cells}.lateral.1" for cells in (1, 2, 3, 6)} | {"mix"}
ATROUS = {"branches.pool.lateral.1", "branches.conv.lateral", "mix"}
SEPARABLE = {f"branches.dilated{d}.lateral.{kind}" for d in (3, 6, 9) for kind in ("depthwise", "pointwise")}
PROGRESSIVE = {f"res{i}.transfer.convs.{k}" for i, steps in ((2, 1), (3, 1), (4, 2), (5, 3)) for k in range(steps)}
KEYS = {
    "uper": {f"context.{key}" for key in POOLS}
    | {f"pyramid.merges.res{i}.branches.lateral.lateral" for i in (2, 3, 4)}
    | {f"pyramid.outputs.res{i}" for i in (2, 3, 4)}
    | {"fusion.mix"},
    "psp": {f"fusion.{key}" for key in POOLS},
    "aspp": {f"fusion.{key}" for key in ATROUS} | {f"fusion.branches.dilated{d}.lateral" for d in (3, 6, 9)},
    "sep_aspp": {f"context.{key}" for key in ATROUS | SEPARABLE}
    | {"fusion.branches.low_level.lateral"}
    | {f"{block}.{kind}" for block in ("fusion.mix", "refine") for kind in ("depthwise", "pointwise")},
    "fcn": {"body.branches.convs.lateral.0", "body.branches.convs.lateral.1", "body.mix"},
    "fcn_levels": {"fusion.mix"},
    "semantic_fpn": {f"pyramid.merges.res{i}.branches.lateral.lateral" for i in (2, 3, 4)}
    | {f"pyramid.outputs.res{i}" for i in (2, 3, 4, 5)}
    | {"pyramid.top_lateral"}
    | {f"fusion.branches.{branch}" for branch in PROGRESSIVE},
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_checkpoint_keys_are_stable(name):
    """Renaming a module orphans every checkpoint: such a change must come with a mapping."""
    names = {re.sub(r"\.(conv|norm)\.[a-z_]+$", "", key) for key in make_head(name).state_dict()}
    assert names == KEYS[name] | {"classifier.weight", "classifier.bias"}


# --- the final Fusion's transfer and combine ---


@pytest.mark.parametrize("combine", ["concat", "sum", "softmax", "fast_normalized"])
@pytest.mark.parametrize("transfer", ["bilinear", "nearest", "gated", "supervised_gated", "aligned"])
@pytest.mark.parametrize("name", ["uper", "sep_aspp"])
def test_final_fusions_of_every_kind_equalize_and_fold(name, transfer, combine):
    own = {"widths": {"low_level": 8}} if name == "sep_aspp" else {}
    fusion = FusionOptions(transfer=transfer, combine=combine, gate_channels=3)
    head = make_head(name, spec=EqualizerSpec(), fusion=fusion, **own).double()
    features = make_features(61, 97, dtype=torch.float64)
    calibrate(head, [features], num_images=-1)
    logits = head.eval().logits(features)
    torch.testing.assert_close(fold_equalizers(head).logits(features), logits, rtol=0, atol=1e-12)
    if (transfer, combine) != ("bilinear", "concat"):
        plain = make_head(name, spec=EqualizerSpec(), **own).double()
        calibrate(plain, [features], num_images=-1)
        assert not torch.allclose(plain.eval().logits(features), logits)


@pytest.mark.parametrize("combine", ["softmax", "fast_normalized"])
@pytest.mark.parametrize("name", ["aspp", "semantic_fpn"])
def test_weighted_sums_start_as_the_mean_of_the_branches(name, combine):
    """With equal weights a weighted sum is the plain sum over n, up to the fast one's small constant."""
    features = make_features(64, 96)
    maps = {}
    for kind in ("sum", combine):
        options = {"combine": kind} if name == "semantic_fpn" else {"context": AtrousOptions(combine=kind)}
        head = make_head(name, **options).eval()
        head.fusion.mix = torch.nn.Identity()
        maps[kind] = head.decoder(features)
        count = len(head.fusion.branches)
    torch.testing.assert_close(maps[combine], maps["sum"] / count, rtol=1e-3, atol=1e-5)


def test_a_supervised_gates_prediction_has_a_loss_of_its_own():
    """Cross entropy over the valid pixels, 0.4 of it, without the main loss's OHEM: an auxiliary head's."""
    loss = SegmentationLoss(ignore_value=7, weight=2.0, options=LossOptions(ohem="top_k", ohem_top_k=0.1))
    head = make_head("uper", fusion=SUPERVISED, dropout=0.0, loss=loss).train()
    features, labels = make_features(64, 96), torch.randint(0, 3, (2, 64, 96))
    labels[:, :9] = 7
    predicted = {}
    for level in ("res3", "res4", "res5"):
        gate = head.fusion.branches[level].transfer.gate
        assert isinstance(gate, SupervisedGate)
        gate.predictor.register_forward_hook(lambda module, args, out, level=level: predicted.update({level: out}))
    _, losses = head(features, labels)
    assert set(losses) == {"loss_sem_seg", *(f"loss_gate_fusion_{level}" for level in predicted)}
    for level, logits in predicted.items():
        upsampled = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
        expected = 0.4 * F.cross_entropy(upsampled, labels, ignore_index=7)
        torch.testing.assert_close(losses[f"loss_gate_fusion_{level}"], expected)
    losses["loss_gate_fusion_res4"].backward()
    assert head.fusion.branches["res4"].transfer.gate.predictor.weight.grad.abs().sum() > 0
    assert head.eval()(features)[1] == {}


# --- gates in the context ---


@pytest.mark.parametrize("kind", ["paper", "reference"])
@pytest.mark.parametrize(("name", "count"), [("psp", 8), ("uper", 8), ("aspp", 5), ("sep_aspp", 5)])
def test_context_gates_that_are_open_everywhere_change_nothing(name, count, kind):
    features = make_features(64, 96)
    plain = make_head(name).eval()
    gated = make_head(name, context=CONTEXTS[name](gate=kind)).eval()
    gates = [module for module in gated.modules() if isinstance(module, Gate)]
    assert len(gates) == count
    own = [key for key in gated.state_dict() if ".map." not in key]
    values = zip(own, plain.state_dict().values(), strict=True)
    gated.load_state_dict(dict(values), strict=False)
    expected = plain.logits(features)
    assert not torch.allclose(gated.logits(features), expected)
    for gate in gates:
        gate.map = torch.nn.Sequential(torch.nn.Conv2d(gate.map[0].in_channels, 1, 1))
        torch.nn.init.zeros_(gate.map[0].weight)
        torch.nn.init.ones_(gate.map[0].bias)
    torch.testing.assert_close(gated.logits(features), expected, rtol=0, atol=1e-6)


# --- what an equalizer or a norm cannot do ---


@pytest.mark.parametrize("name", HEADS)
def test_dropout_drops_whole_channels_before_the_classifier(name):
    head, seen = make_head(name, channels=64, dropout=0.25).train(), []
    head.dropout.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    head.logits(make_features(64, 96))
    ((before, after),) = seen
    assert before.shape[:2] == (2, 64)
    dropped = (after == 0).all((2, 3))
    assert 0.1 < dropped.double().mean() < 0.4
    expected = torch.where(dropped[:, :, None, None], 0.0, before / 0.75)
    torch.testing.assert_close(after, expected)
    assert torch.equal(head.eval().dropout(before), before)


def logits_with_scales(name: str, stds: list[float], fusion: str = "fusion") -> torch.Tensor:
    """In training, with equalizers whose mean is 0 and whose std is made up."""
    head = make_head(name, spec=EqualizerSpec(), dropout=0.0).double().train()
    for equalizer, std in zip(getattr(head, fusion).equalizer_of.values(), stds, strict=True):
        equalizer.set_statistics(torch.tensor(0.0), torch.tensor(std), 1)
    return head.logits(make_features(64, 96, dtype=torch.float64))


def test_a_scale_before_a_depthwise_convolution_and_a_norm_changes_nothing_and_the_mix_says_so():
    """Up to the epsilon of the norm, whose size relative to the variance does change."""
    unscaled, scaled = (logits_with_scales("sep_aspp", stds) for stds in ([1.0, 1.0], [0.5, 2.0]))
    torch.testing.assert_close(scaled, unscaled, rtol=1e-2, atol=1e-4)
    context = logits_with_scales("sep_aspp", [0.5, 2.0, 1.0, 1.0, 1.0], fusion="context")
    assert (context - unscaled).abs().max() > 100 * (scaled - unscaled).abs().max()
    assert "depthwise" in make_head("sep_aspp").fusion.mix.scale_invariant
    assert make_head("sep_aspp", norm=None).fusion.mix.scale_invariant == ""
    assert make_head("sep_aspp", norm=norm_factory("LN")).fusion.mix.scale_invariant == ""


@pytest.mark.parametrize("name", ["psp", "uper", "aspp", "sep_aspp"])
def test_a_group_per_channel_would_leave_nothing_of_one_cell(name):
    own = {"widths": {"low_level": 32}} if name == "sep_aspp" else {}
    with pytest.raises(ValueError, match="a group for each of 32 channels"):
        make_head(name, channels=32, norm=lambda channels: torch.nn.GroupNorm(32, channels), **own)


@pytest.mark.parametrize("norm", [None, torch.nn.InstanceNorm2d], ids=["none", "instance"])
@pytest.mark.parametrize("name", HEADS)
def test_a_heads_norm_is_that_of_all_its_parts(name, norm):
    norms = [module for module in make_head(name, norm=norm).modules() if isinstance(module, _NormBase)]
    assert {type(module) for module in norms} == {norm} - {None}


def test_group_norm_of_several_channels_a_group_trains_on_one_image():
    head = make_head("psp", channels=64, norm=norm_factory("GN")).train()
    _, losses = head(make_features(64, 64, batch=1), torch.zeros(1, 64, 64, dtype=torch.long))
    losses["loss_sem_seg"].backward()
    assert head.fusion.branches["pool1"].lateral[1].conv.weight.grad.abs().sum() > 0


def test_training_without_targets_and_heads_without_classes_are_refused():
    with pytest.raises(ValueError, match="needs targets"):
        make_head("psp").train()(make_features(64, 64))
    with pytest.raises(ValueError, match="NUM_CLASSES is 0"):
        make_head("aspp", num_classes=0)
    with pytest.raises(ValueError, match="num_convs is 0"):
        make_head("fcn", num_convs=0)
