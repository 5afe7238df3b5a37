"""Heads from a config: what each reads, and the combinations that it refuses, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import scaleeq.segmentor  # noqa: F401  (registers the heads)
from scaleeq.engine import SEM_SEG_HEADS_REGISTRY, ShapeSpec, load_config
from scaleeq.layers import Gate
from scaleeq.tasks.head import SegmentationHead

BASE = Path(__file__).parents[2] / "configs" / "Base.yaml"
CHANNELS = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}
STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}

HEAD = "MODEL.SEM_SEG_HEAD."
UPER = [f"{HEAD}NAME", "UPerHead"]
ONE_LEVEL = [f"{HEAD}IN_FEATURES", "['res5']", f"{HEAD}COMMON_STRIDE", "32"]
PSP = [f"{HEAD}NAME", "PSPHead", *ONE_LEVEL]
ASPP = [f"{HEAD}NAME", "ASPPHead", *ONE_LEVEL]
SEP_ASPP = [f"{HEAD}NAME", "SepASPPHead", f"{HEAD}IN_FEATURES", "['res2', 'res5']"]
FCN = [f"{HEAD}NAME", "FCNHead", *ONE_LEVEL]
FCN_LEVELS = [f"{HEAD}NAME", "FCNHead"]
SEMANTIC_FPN = [f"{HEAD}NAME", "SemanticFPNHead"]
ALL = {
    "UPerHead": UPER,
    "PSPHead": PSP,
    "ASPPHead": ASPP,
    "SepASPPHead": SEP_ASPP,
    "FCNHead": FCN,
    "FCNHead of levels": FCN_LEVELS,
    "SemanticFPNHead": SEMANTIC_FPN,
}


def make_head(*options: str, strides: dict[str, int] = STRIDES) -> SegmentationHead:
    torch.manual_seed(0)
    cfg = load_config(BASE, [f"{HEAD}CONVS_DIM", "8", f"{HEAD}NUM_CLASSES", "3", *options])
    shapes = {level: ShapeSpec(channels=CHANNELS[level], stride=stride) for level, stride in strides.items()}
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, shapes)


@pytest.mark.parametrize("equalized", ["False", "True"])
@pytest.mark.parametrize("options", ALL.values(), ids=ALL)
def test_every_head_is_built_from_a_config_and_trains(options, equalized):
    head = make_head(*options, "MODEL.SCALE_EQUALIZER.ENABLED", equalized).train()
    assert any("equalizers" in key for key in head.state_dict()) == (equalized == "True")
    features = {level: torch.randn(2, CHANNELS[level], 64 // stride, 96 // stride) for level, stride in STRIDES.items()}
    _, losses = head(features, torch.zeros(2, 64, 96, dtype=torch.long))
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize(("stride", "expected"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
@pytest.mark.parametrize("options", [ASPP, SEP_ASPP], ids=["ASPPHead", "SepASPPHead"])
def test_dilations_follow_from_the_output_stride_unless_they_are_stated(options, stride, expected):
    common = str(stride) if options is ASPP else "4"
    strides = STRIDES | {"res5": stride}
    stated = [*options, f"{HEAD}COMMON_STRIDE", common]
    for dilations, keys in ((expected, []), ((2, 5), [f"{HEAD}ASPP_DILATIONS", "[2, 5]"])):
        head = make_head(*stated, *keys, strides=strides)
        context = head.fusion if options is ASPP else head.context
        assert list(context.branches) == ["pool", "conv", *(f"dilated{d}" for d in dilations)]
        convs = [context.branches[f"dilated{d}"].lateral for d in dilations]
        found = [(conv if options is ASPP else conv.depthwise).conv.dilation for conv in convs]
        assert found == [(d, d) for d in dilations]


def test_widths_of_the_separable_head():
    head = make_head(*SEP_ASPP, f"{HEAD}ASPP_CHANNELS", "16", f"{HEAD}PROJECT_CHANNELS", "[5]")
    assert {name: branch.channels for name, branch in head.fusion.branches.items()} == {"context": 16, "low_level": 5}
    assert make_head(*SEP_ASPP).fusion.branches["low_level"].channels == 48
    assert head.common_stride == 4


@pytest.mark.parametrize("pyramid", ["fpn", "fapn", "bifpn", "none"])
@pytest.mark.parametrize("options", [UPER, SEMANTIC_FPN], ids=["UPerHead", "SemanticFPNHead"])
def test_the_pyramid_is_a_choice(options, pyramid):
    head = make_head(*options, "MODEL.PYRAMID.NAME", pyramid, "MODEL.PYRAMID.CHANNELS", "16").eval()
    features = {level: torch.randn(1, CHANNELS[level], -(-61 // s), -(-97 // s)) for level, s in STRIDES.items()}
    assert head.logits(features).shape == (1, 3, 16, 25)
    assert type(head.pyramid).__name__ == {"bifpn": "BiFPN", "none": "NoPyramid"}.get(pyramid, "FPN")
    if pyramid != "none":
        assert set(head.pyramid.out_channels.values()) == {16}


def test_a_semantic_fpn_is_as_detectron2s_by_default():
    """Its FPN on ResNet-50 has 3,344,384 parameters, and no norm; GN is in the branches."""
    options = [*SEMANTIC_FPN, f"{HEAD}CONVS_DIM", "128", f"{HEAD}NORM", "GN"]
    cfg = load_config(BASE, options)
    shapes = {level: ShapeSpec(channels=64 * s, stride=s) for level, s in STRIDES.items()}
    with torch.device("meta"):
        head = SEM_SEG_HEADS_REGISTRY.get("SemanticFPNHead")(cfg, shapes)
    assert sum(p.numel() for p in head.pyramid.parameters()) == 3_344_384
    norms = [m for m in head.fusion.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert [(norm.num_groups, norm.num_channels) for norm in norms] == [(32, 128)] * 7


def test_gates_are_of_the_stated_kind_and_off_by_default():
    assert not [m for m in make_head(*PSP).modules() if isinstance(m, Gate)]
    gated = make_head(*PSP, f"{HEAD}CONTEXT_GATE", "True", "MODEL.GATE", "reference")
    fused = make_head(*UPER, "MODEL.FUSION.TRANSFER", "gated", "MODEL.GATE", "reference")
    for head, count in ((gated, 8), (fused, 3)):
        gates = [m for m in head.modules() if isinstance(m, Gate)]
        assert len(gates) == count
        assert all(any(isinstance(m, torch.nn.ReLU) for m in gate.modules()) for gate in gates)


def test_levels_of_one_stride_are_in_the_backbones_order():
    head = make_head(
        *SEP_ASPP, f"{HEAD}IN_FEATURES", "['res5', 'res2']", strides=dict.fromkeys(STRIDES, 4) | {"res5": 8}
    )
    assert head.in_features == ["res2", "res5"]
    head = make_head(*FCN_LEVELS, f"{HEAD}IN_FEATURES", "['res5', 'res4', 'res2']", strides=STRIDES | {"res5": 16})
    assert head.in_features == ["res2", "res4", "res5"]
    turned = dict(zip(STRIDES, sorted(STRIDES.values(), reverse=True), strict=True))
    assert make_head(*FCN_LEVELS, strides=turned).in_features == ["res5", "res4", "res3", "res2"], "finest first"


PYRAMID, FUSION = "MODEL.PYRAMID.", "MODEL.FUSION."
REFUSED = {
    "psp of two levels": ([*PSP, f"{HEAD}IN_FEATURES", "['res4', 'res5']"], "PSPHead reads 1 level; "),
    "psp and a pyramid": ([*PSP, f"{PYRAMID}NAME", "fpn"], "PYRAMID.NAME is 'fpn', but PSPHead has no pyramid"),
    "psp and a sum": ([*PSP, f"{FUSION}COMBINE", "sum"], "PSPHead has no branches of one width"),
    "psp and alignment": ([*PSP, f"{FUSION}TRANSFER", "aligned"], "maps of a few cells by 'bilinear' or 'nearest'"),
    "psp, gates, nearest": (
        [*PSP, f"{FUSION}TRANSFER", "nearest", f"{HEAD}CONTEXT_GATE", "True"],
        "CONTEXT_GATE upsamples by 'bilinear'",
    ),
    "psp, pools twice": ([*PSP, f"{HEAD}POOL_SCALES", "[1, 1]"], r"POOL_SCALES is \[1, 1\]; give different"),
    "psp, wrong gate": ([*PSP, f"{HEAD}CONTEXT_GATE", "True", "MODEL.GATE", "open"], "MODEL.GATE is 'open'"),
    "aspp, transfer": ([*ASPP, f"{FUSION}TRANSFER", "nearest"], "ASPPHead has no branches of different sizes"),
    "aspp of two levels": ([*ASPP, f"{HEAD}IN_FEATURES", "['res4', 'res5']"], "ASPPHead reads 1 level; "),
    "aspp, widths": ([*ASPP, f"{HEAD}ASPP_CHANNELS", "16"], "leave ASPP_CHANNELS 0"),
    "aspp, dilations": ([*ASPP, f"{HEAD}ASPP_DILATIONS", "[0, 6]"], r"ASPP_DILATIONS is \[0, 6\]; expected a list"),
    "aspp, dilations twice": ([*ASPP, f"{HEAD}ASPP_DILATIONS", "[6, 6]"], r"ASPP_DILATIONS is \[6, 6\]; give diff"),
    "aspp, stride": (
        [*ASPP, f"{HEAD}IN_FEATURES", "['res2']", f"{HEAD}COMMON_STRIDE", "4"],
        "no dilations are known for a level of stride 4, only for 8, 16, 32; set MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
    ),
    "sep_aspp of one level": ([*SEP_ASPP, f"{HEAD}IN_FEATURES", "['res5']"], "SepASPPHead reads 2 levels"),
    "sep_aspp and a pyramid": ([*SEP_ASPP, f"{PYRAMID}CHANNELS", "9"], "PYRAMID.CHANNELS is 9, but SepASPPHead has no"),
    "sep_aspp and a sum": ([*SEP_ASPP, f"{FUSION}COMBINE", "sum"], "their channels are context 8, low_level 48; use"),
    "sep_aspp and alignment": ([*SEP_ASPP, f"{FUSION}TRANSFER", "aligned"], "channel by channel; .* low_level 48"),
    "sep_aspp, two projections": ([*SEP_ASPP, f"{HEAD}PROJECT_CHANNELS", "[48, 32]"], "so give one number"),
    "sep_aspp, stride": ([*SEP_ASPP, f"{HEAD}COMMON_STRIDE", "32"], "have stride 4; set it to 4"),
    "fcn and a fusion": ([*FCN, f"{FUSION}TRANSFER", "nearest"], "FCNHead has no levels to fuse"),
    "psp and dilations": (
        [*PSP, f"{HEAD}ASPP_DILATIONS", "[2]"],
        r"is \[2\], but PSPHead has no atrous pooling; leave",
    ),
    "aspp and pools": ([*ASPP, f"{HEAD}POOL_SCALES", "[1]"], r"no pyramid pooling; leave it \[1, 2, 3, 6\]"),
    "uper and projections": ([*UPER, f"{HEAD}PROJECT_CHANNELS", "[9]"], "UPerHead has no low level to project"),
    "uper, wrong gate": ([*UPER, "MODEL.GATE", "open"], "MODEL.GATE is 'open'; choose one of paper, reference"),
    "fcn and gates": (
        [*FCN, f"{HEAD}CONTEXT_GATE", "True"],
        "CONTEXT_GATE is True, but FCNHead has no context to gate; leave",
    ),
    "fcn and a pyramid": ([*FCN_LEVELS, f"{PYRAMID}NAME", "fpn"], "FCNHead has no pyramid"),
    "fcn, levels, sum": ([*FCN_LEVELS, f"{FUSION}COMBINE", "softmax"], "COMBINE 'softmax' adds branches of one width"),
    "uper, none, sum": ([*UPER, f"{PYRAMID}NAME", "none", f"{FUSION}COMBINE", "sum"], "adds branches of one width"),
    "uper, deconv": ([*UPER, f"{FUSION}TRANSFER", "deconv"], "TRANSFER is 'deconv'; choose one of bilinear, "),
    "uper, norm": ([*UPER, f"{PYRAMID}NORM", "GN"], "UPerHead has no norms but those of SEM_SEG_HEAD.NORM"),
    "semantic_fpn, concat": ([*SEMANTIC_FPN, f"{FUSION}COMBINE", "concat"], "classifies the sum of its branches"),
    "semantic_fpn, transfer": ([*SEMANTIC_FPN, f"{FUSION}TRANSFER", "gated"], "each branch is upsampled step by step"),
    "semantic_fpn, gates": ([*SEMANTIC_FPN, f"{HEAD}CONTEXT_GATE", "True"], "SemanticFPNHead has no context"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_with_the_reason(case):
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make_head(*options)


@pytest.mark.parametrize("options", ALL.values(), ids=ALL)
def test_unknown_values_are_refused_by_every_head(options):
    for key, value, message in (
        ("MODEL.SCALE_EQUALIZER.SCOPE", "some", "SCOPE is 'some'"),
        (f"{HEAD}NORM", "XN", "NORM is 'XN'; choose one of"),
        (f"{HEAD}IN_FEATURES", "['res5', 'res5']", "name each level once"),
        (f"{HEAD}IN_FEATURES", "['res9']", r"IN_FEATURES is \['res9'\]; the backbone has res2, res3, res4, res5"),
    ):
        with pytest.raises(ValueError, match=message):
            make_head(*options, key, value)
