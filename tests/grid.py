"""The grid of models: axes of config keys, the combinations that are refused, and a covering array of the rest.

A value of an axis is a short name, "" where the head or the pyramid has nothing that the axis describes. OPTIONS says
which keys a value sets; a value without an entry there is the value of its axis' one key.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from scaleeq.engine import load_config

from .covering import Grid, Point, Rule

CONFIGS = Path(__file__).parents[1] / "configs"
HEAD, PYRAMID, EQUALIZER = "MODEL.SEM_SEG_HEAD", "MODEL.PYRAMID", "MODEL.SCALE_EQUALIZER"

AXES: dict[str, tuple[str, ...]] = {
    "head": ("UPer", "SemanticFPN", "ESeg", "PSP", "ASPP", "SepASPP", "FCN", "FCN of levels"),
    "pyramid": ("", "none", "fpn", "fapn", "bifpn"),
    "lateral": ("", "conv", "select", "squeeze_excite"),
    "transfer": ("", "bilinear", "nearest", "deconv", "gated", "aligned", "aligned_self", "aligned_realtime"),
    "down_transfer": ("", "max", "avg"),
    "combine": ("", "sum", "softmax", "fast_normalized"),
    "outputs": ("", "convs", "smoothed"),
    "final_transfer": ("", "bilinear", "nearest", "gated", "supervised_gated", "aligned"),
    "final_combine": ("", "concat", "sum", "softmax", "fast_normalized"),
    "gate": ("paper", "reference"),
    "context_gate": ("off", "on"),
    "equalizer": ("off", "reparametrize", "module", "init", "init_scaled"),
    "granularity": ("branch", "channel"),
    "statistic": ("std", "rms"),
    "statistics_of": ("upsampled", "source"),
    "scope": ("head", "all"),
    "norm": ("BN", "GN", "none"),
    "backbone": ("resnet", "convnext", "hrnet", "vit"),
    "classes": ("5", "1"),
}

KEYS = {
    "pyramid": f"{PYRAMID}.NAME",
    "lateral": f"{PYRAMID}.LATERAL",
    "transfer": f"{PYRAMID}.TRANSFER",
    "down_transfer": f"{PYRAMID}.DOWN_TRANSFER",
    "combine": f"{PYRAMID}.COMBINE",
    "final_transfer": "MODEL.FUSION.TRANSFER",
    "final_combine": "MODEL.FUSION.COMBINE",
    "gate": "MODEL.GATE",
    "granularity": f"{EQUALIZER}.GRANULARITY",
    "statistic": f"{EQUALIZER}.STATISTIC",
    "statistics_of": f"{EQUALIZER}.STATISTICS_OF",
    "scope": f"{EQUALIZER}.SCOPE",
    "classes": f"{HEAD}.NUM_CLASSES",
}
ONE_LEVEL = {f"{HEAD}.IN_FEATURES": "['res5']", f"{HEAD}.COMMON_STRIDE": "32"}
# Widths of head and pyramid by norm; a group norm, of 32 groups, wants more than one channel in each.
WIDTHS = {"BN": ("16", "8"), "GN": ("64", "64"), "none": ("16", "8")}

OPTIONS: dict[tuple[str, str], dict[str, str]] = {
    ("head", "PSP"): {f"{HEAD}.NAME": "PSPHead", **ONE_LEVEL},
    ("head", "ASPP"): {f"{HEAD}.NAME": "ASPPHead", **ONE_LEVEL},
    ("head", "SepASPP"): {f"{HEAD}.NAME": "SepASPPHead", f"{HEAD}.IN_FEATURES": "['res2', 'res5']"},
    ("head", "FCN"): {f"{HEAD}.NAME": "FCNHead", **ONE_LEVEL},
    ("head", "FCN of levels"): {f"{HEAD}.NAME": "FCNHead"},
    ("outputs", "convs"): {f"{PYRAMID}.OUTPUT_CONVS": "[2, 0, 1, 1]"},
    ("outputs", "smoothed"): {f"{PYRAMID}.RECURSION": "smoothed"},
    ("context_gate", "on"): {f"{HEAD}.CONTEXT_GATE": "True"},
    ("norm", "BN"): {f"{HEAD}.NORM": "BN"},
    ("norm", "GN"): {f"{HEAD}.NORM": "GN"},
    ("norm", "none"): {f"{HEAD}.NORM": ""},
    ("backbone", "resnet"): {"MODEL.TIMM.NAME": "test_resnet"},
    ("backbone", "convnext"): {"MODEL.TIMM.NAME": "test_convnext"},
    ("backbone", "hrnet"): {
        "MODEL.TIMM.NAME": "hrnet_w18_small",
        "MODEL.BACKBONE.NAME": "build_gsto_hrnet_backbone",
    },
    ("backbone", "vit"): {
        "MODEL.TIMM.NAME": "test_vit",
        "MODEL.BACKBONE.NAME": "build_vit_backbone",
        "MODEL.VIT.PYRAMID": "simple",
        "MODEL.VIT.PYRAMID_CHANNELS": "32",
    },
}

PYRAMID_AXES = ("pyramid", "lateral", "transfer", "down_transfer", "combine", "outputs")
WITH_PYRAMID = ("UPer", "SemanticFPN", "ESeg")
WITHOUT_PYRAMID = tuple(head for head in AXES["head"] if head not in WITH_PYRAMID)
CONTEXTS = ("UPer", "PSP", "ASPP", "SepASPP")
SUMS = ("sum", "softmax", "fast_normalized")
ON, INITIALIZERS = AXES["equalizer"][1:], ("init", "init_scaled")
SOURCE_CHANNELS = {"statistics_of": ("source",), "granularity": ("channel",)}


def given(axis: str) -> tuple[str, ...]:
    """Every value of an axis but ""."""
    return tuple(value for value in AXES[axis] if value)


# What is refused: a part of the message, which names a key and the reason -> the combinations.
OF_SEVERAL_WIDTHS = ("resnet", "convnext", "hrnet")  # a ViT's levels have one; UPer's context another
REFUSED: dict[str, list[Rule]] = {
    r"MODEL\.PYRAMID\.\w+ is .*, but (PSP|ASPP|SepASPP|FCN)Head has no pyramid": [
        {"head": WITHOUT_PYRAMID, axis: given(axis)} for axis in PYRAMID_AXES
    ],
    r"MODEL\.PYRAMID\.\w+ is .*, which NAME 'none' cannot use: there is no pyramid": [
        {"pyramid": ("none",), axis: given(axis)} for axis in PYRAMID_AXES[1:]
    ],
    r"MODEL\.PYRAMID\.\w+ is .*, which NAME 'bifpn' cannot use: a BiFPN has one 1x1 lateral per level": [
        {"pyramid": ("bifpn",), axis: given(axis)} for axis in ("lateral", "outputs")
    ],
    r"MODEL\.PYRAMID\.DOWN_TRANSFER is .*, which NAME 'fa?pn' cannot use: it has one path, top-down": [
        {"pyramid": ("fpn", "fapn"), "down_transfer": ("max", "avg")}
    ],
    r"MODEL\.PYRAMID\.\w+ is .*, but real-time FaPN .* has plain laterals and no output convolutions": [
        {"pyramid": ("fapn",), "transfer": ("aligned_realtime",), axis: given(axis)} for axis in ("lateral", "outputs")
    ],
    r"MODEL\.PYRAMID\.OUTPUT_CONVS is .*: one number per level is needed": [{"head": ("ESeg",), "outputs": ("convs",)}],
    r"MODEL\.FUSION\.TRANSFER is .*, but \w+Head has no (choice of it|branches of|levels)": [
        {"head": ("SemanticFPN", "ASPP", "FCN"), "final_transfer": given("final_transfer")}
    ],
    r"MODEL\.FUSION\.TRANSFER is .*; PSPHead upsamples maps of a few cells": [
        {"head": ("PSP",), "final_transfer": ("gated", "supervised_gated", "aligned")}
    ],
    r"CONTEXT_GATE upsamples by 'bilinear', not MODEL\.FUSION\.TRANSFER 'nearest'": [
        {"head": ("PSP",), "final_transfer": ("nearest",), "context_gate": ("on",)}
    ],
    r"MODEL\.FUSION\.TRANSFER 'aligned' compares a branch with the reference, channel by channel": [
        {"head": ("FCN of levels",), "final_transfer": ("aligned",), "backbone": OF_SEVERAL_WIDTHS},
        {"head": ("UPer",), "pyramid": ("none",), "final_transfer": ("aligned",)},
        {"head": ("ESeg",), "pyramid": ("none",), "final_transfer": ("aligned",), "backbone": OF_SEVERAL_WIDTHS},
    ],
    r"MODEL\.FUSION\.COMBINE is .*, but \w+Head has no (branches of one width|levels)": [
        {"head": ("PSP", "FCN"), "final_combine": given("final_combine")}
    ],
    r"MODEL\.FUSION\.COMBINE is 'concat', but SemanticFPNHead classifies the sum": [
        {"head": ("SemanticFPN",), "final_combine": ("concat",)}
    ],
    r"MODEL\.FUSION\.COMBINE .* adds branches of one width; their channels are": [
        {"head": ("FCN of levels",), "final_combine": SUMS, "backbone": OF_SEVERAL_WIDTHS},
        {"head": ("UPer",), "pyramid": ("none",), "final_combine": SUMS},
        {"head": ("ESeg",), "pyramid": ("none",), "final_combine": SUMS, "backbone": OF_SEVERAL_WIDTHS},
    ],
    r"MODEL\.SEM_SEG_HEAD\.CONTEXT_GATE is True, but \w+Head has no": [
        {"head": tuple(head for head in AXES["head"] if head not in CONTEXTS), "context_gate": ("on",)}
    ],
    r"SCALE_EQUALIZER\.IMPLEMENTATION 'init(_scaled)?': \w+Sum has no weights": [
        {"equalizer": ("init_scaled",), "final_combine": ("softmax", "fast_normalized")},
        {"equalizer": ("init_scaled",), "scope": ("all",), "combine": ("softmax", "fast_normalized")},
    ],
    r"SCALE_EQUALIZER\.IMPLEMENTATION 'init(_scaled)?': Sum has no weights": [
        {"equalizer": INITIALIZERS, "final_combine": ("sum",)},
        {"equalizer": INITIALIZERS, "scope": ("all",), "combine": ("sum",)},
    ],
    r"SCALE_EQUALIZER\.IMPLEMENTATION 'init': a weighted sum has one weight per branch": [
        {"equalizer": ("init",), "granularity": ("channel",), "final_combine": SUMS[1:]},
        {"equalizer": ("init",), "granularity": ("channel",), "scope": ("all",), "combine": SUMS[1:]},
    ],
    r"SCALE_EQUALIZER\.IMPLEMENTATION 'init': .* does not remove a constant per channel; use STATISTIC 'rms'": [
        {
            "equalizer": ("init",),
            "statistic": ("std",),
            "norm": ("GN",),
            "head": ("UPer", "PSP", "SepASPP", "FCN", "FCN of levels"),
        },
        {
            "equalizer": ("init",),
            "statistic": ("std",),
            "norm": ("GN",),
            "head": ("ASPP",),
            "final_combine": ("concat",),
        },
    ],
    r"SCALE_EQUALIZER\.STATISTICS_OF 'source' with GRANULARITY 'channel': \w+, the transfer of branch": [
        {"equalizer": ON, **SOURCE_CHANNELS, "head": ("SemanticFPN",)},
        {"equalizer": ON, **SOURCE_CHANNELS, "head": ("UPer", "PSP"), "context_gate": ("on",)},
        {"equalizer": ON, **SOURCE_CHANNELS, "final_transfer": ("gated", "supervised_gated", "aligned")},
        {"equalizer": ON, **SOURCE_CHANNELS, "scope": ("all",), "transfer": AXES["transfer"][3:]},
    ],
    r"has no weights to go to \(MODEL\.SCALE_EQUALIZER\.ENABLED, COMBINE 'concat'\): mix needs": [
        {"equalizer": ON, "head": ("ESeg",), "final_combine": ("concat",)}
    ],
}

# Left out: "" where a key has a value; it is what the head or the pyramid implies.
IMPLIED: list[Rule] = [
    {"head": WITH_PYRAMID, "pyramid": ("",)},
    {"pyramid": ("fpn",), "lateral": ("",)},
    *({"pyramid": ("fpn", "fapn", "bifpn"), axis: ("",)} for axis in ("transfer", "combine")),
    {"pyramid": ("bifpn",), "down_transfer": ("",)},
    {"head": ("UPer", "ESeg", "PSP", "SepASPP", "FCN of levels"), "final_transfer": ("",)},
    {"head": tuple(head for head in AXES["head"] if head not in ("PSP", "FCN")), "final_combine": ("",)},
]

# Left out of the array alone: what a point does not read; other values than its first would be covered in name only.
UNREAD: list[Rule] = [
    *({"equalizer": ("off",), axis: AXES[axis][1:]} for axis in ("granularity", "statistic", "statistics_of", "scope")),
    {"pyramid": ("", "none"), "scope": ("all",)},
    {
        "gate": ("reference",),
        **{
            axis: tuple(value for value in AXES[axis] if not value.endswith("gated"))
            for axis in ("transfer", "final_transfer")
        },
        "context_gate": ("off",),
        "backbone": ("resnet", "convnext", "vit"),
    },
]

REFUSALS = [(message, rule) for message, rules in REFUSED.items() for rule in rules]
GRID = Grid(AXES, [*(rule for _, rule in REFUSALS), *IMPLIED, *UNREAD])


@lru_cache
def array() -> tuple[Point, ...]:
    """The points of the grid that are tested."""
    return tuple(GRID.covering_array())


def random_points(
    rules: Sequence[Rule], number: int, *, within: Mapping[str, Sequence[str]] | None = None
) -> list[Point]:
    """So many points, the same at each call, that `rules` allow; `within` narrows some axes."""
    generator, grid, points = random.Random(0), Grid(AXES, rules), []
    for _ in range(number):
        domains = {axis: generator.sample(values, len(values)) for axis, values in (AXES | dict(within or {})).items()}
        points += itertools.islice(grid.points(domains, generator.sample(list(AXES), len(AXES))), 1)
    return points


def represented(**values: str) -> Point:
    """A point by what differs from the first value of each axis."""
    return {axis: values.get(axis, choices[0]) for axis, choices in AXES.items()}


# Together they contain every head, pyramid, lateral, transfer, combine, gate and implementation.
REPRESENTATIVES = (
    represented(
        head="UPer", pyramid="fpn", lateral="select", transfer="aligned_realtime", combine="softmax", outputs="convs",
        final_transfer="gated", final_combine="concat", context_gate="on", equalizer="reparametrize", scope="all",
    ),
    represented(
        head="SemanticFPN", pyramid="fapn", lateral="squeeze_excite", transfer="aligned_self", combine="sum",
        final_combine="sum", equalizer="module", scope="all", norm="GN",
    ),
    represented(
        head="ESeg", pyramid="bifpn", transfer="deconv", down_transfer="avg", combine="fast_normalized",
        final_transfer="bilinear", final_combine="softmax", equalizer="init", scope="all", backbone="convnext",
    ),
    represented(head="PSP", final_transfer="nearest", equalizer="init_scaled", granularity="channel", backbone="vit"),
    represented(head="ASPP", final_combine="fast_normalized", context_gate="on", gate="reference", norm="none"),
    represented(
        head="SepASPP", final_transfer="aligned", final_combine="concat", equalizer="reparametrize", statistic="rms",
    ),
    represented(head="FCN", equalizer="reparametrize", granularity="channel", classes="1"),
    represented(
        head="FCN of levels", final_transfer="supervised_gated", final_combine="concat", equalizer="module",
        backbone="hrnet", gate="reference",
    ),
)  # fmt: skip


def options(point: Point) -> list[str]:
    """KEY VALUE ... of a point."""
    keys = {f"{HEAD}.NAME": f"{point['head']}Head"}
    for axis, value in point.items():
        if axis in KEYS:
            keys |= {KEYS[axis]: value} if value else {}
        else:
            keys |= OPTIONS.get((axis, value), {})
    keys[f"{HEAD}.CONVS_DIM"], pyramid_width = WIDTHS[point["norm"]]
    if point["head"] in WITH_PYRAMID:
        keys[f"{PYRAMID}.CHANNELS"] = pyramid_width
    if point["head"] == "SepASPP":
        keys[f"{HEAD}.PROJECT_CHANNELS"] = f"[{keys[f'{HEAD}.CONVS_DIM']}]"
    if point["equalizer"] != "off":
        keys |= {f"{EQUALIZER}.ENABLED": "True", f"{EQUALIZER}.IMPLEMENTATION": point["equalizer"]}
    return [part for key, value in keys.items() for part in (key, value or '""')]


def config(point: Point) -> Any:
    """The config of a point, on the CPU."""
    base = {"MODEL.DEVICE": "cpu", "MODEL.AUX_HEAD.CONVS_DIM": "32"}
    return load_config(CONFIGS / "Base.yaml", [*(part for item in base.items() for part in item), *options(point)])


def name(point: Point) -> str:
    """A short name: the values that differ from the first of their axis."""
    return "-".join(value for axis, value in point.items() if value and (axis == "head" or value != AXES[axis][0]))
