"""Parameter counts and logits of the heads. Oracle: mmsegmentation 1.2.2, recorded in goldens/ by
record_mmseg_heads.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scaleeq.decoders import ASPP, FCN, PSP, AtrousOptions, SepASPP, UPer
from scaleeq.layers import Level
from tests.decoders.heads import head_of
from tests.decoders.reference_weights import reference_inputs, reference_state

GOLDENS = Path(__file__).parent / "goldens"
CASES = json.loads((GOLDENS / "mmseg_heads.json").read_text())["heads"]
LEVELS = ["res2", "res3", "res4", "res5"]
STRIDES = [4, 8, 16, 32]
DILATIONS = [1, 2, 4, 6]  # of the recorded cases

# Our names -> mmsegmentation's, in order; both end in conv, norm or bn, and the tensor's own name.
POOLS = (r"\.branches\.pool(\d)\.lateral\.1\.", lambda m: f".psp_modules.{[1, 2, 3, 6].index(int(m[1]))}.1.")
ATROUS = [
    (r"\.branches\.pool\.lateral\.1\.", ".image_pool.1."),
    (r"\.branches\.conv\.lateral\.", ".aspp_modules.0."),
    (r"\.branches\.dilated(\d)\.lateral\.", lambda m: f".aspp_modules.{DILATIONS.index(int(m[1]))}."),
]
RENAMES = {
    "UPerHead": [
        POOLS,
        (r"^context\.mix\.", "bottleneck."),
        (r"^pyramid\.merges\.res(\d)\.branches\.lateral\.lateral\.", lambda m: f"lateral_convs.{int(m[1]) - 2}."),
        (r"^pyramid\.outputs\.res(\d)\.", lambda m: f"fpn_convs.{int(m[1]) - 2}."),
        (r"^fusion\.mix\.", "fpn_bottleneck."),
    ],
    "FCNHead": [
        (r"^body\.branches\.convs\.lateral\.(\d)\.", r"convs.\1."),
        (r"^body\.mix\.", "conv_cat."),
        (r"^body\.(\d)\.", r"convs.\1."),
        (r"^fusion\.mix\.", "convs.0."),
    ],
    "PSPHead": [POOLS, (r"^fusion\.mix\.", "bottleneck.")],
    "ASPPHead": [*ATROUS, (r"^fusion\.mix\.", "bottleneck.")],
    "DepthwiseSeparableASPPHead": [
        *ATROUS,
        (r"^context\.mix\.", "bottleneck."),
        (r"^fusion\.branches\.low_level\.lateral\.", "c1_bottleneck."),
        (r"^fusion\.mix\.", "sep_bottleneck.0."),
        (r"^refine\.", "sep_bottleneck.1."),
        (r"\.(depth|point)wise\.", r".\1wise_conv."),
    ],
}


def mmseg_name(head: str, name: str) -> str:
    for pattern, replacement in [*RENAMES[head], (r"^classifier\.", "conv_seg."), (r"\.norm\.", ".bn.")]:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"^(context|fusion)\.", "", name)


def make_head(case: dict) -> nn.Module:
    strides = case.get("strides", STRIDES)
    levels = {name: Level(c, s) for name, c, s in zip(LEVELS, case["in_channels"], strides, strict=True)}
    sizes = {"channels": case["channels"], "num_classes": case["num_classes"]}
    options = case.get("options", {})
    if case["head"] == "UPerHead":
        return head_of(UPer, levels, **sizes)
    if case["head"] == "FCNHead":
        if options.get("kernel_size") == 1:
            return head_of(FCN, levels, **sizes)
        of_convs = {key: options[key] for key in ("num_convs", "concat_input")}
        return head_of(FCN, {"res4": levels["res4"]}, **of_convs, **sizes)
    if case["head"] == "PSPHead":
        return head_of(PSP, {"res5": levels["res5"]}, **sizes)
    context = AtrousOptions(dilations=options["dilations"][1:])
    if case["head"] == "ASPPHead":
        return head_of(ASPP, {"res5": levels["res5"]}, context=context, **sizes)
    return head_of(SepASPP, {level: levels[level] for level in ("res2", "res5")}, context=context, **sizes)


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
    names = {name: mmseg_name(case["head"], name) for name in head.state_dict()}
    assert set(names.values()) == set(reference)
    head.load_state_dict({name: reference[other] for name, other in names.items()})
    inputs = reference_inputs(case["in_channels"], case["outputs"][output]["levels"])
    with torch.no_grad():
        logits = head.logits(dict(zip(LEVELS, inputs, strict=True)))
    expected = torch.from_numpy(np.load(GOLDENS / "mmseg_heads.npz")[output])
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
