"""build_pyramid: every published variant by its keys, and refusals. Oracle: sizes by formula, and the functions."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
from torch.nn.modules.batchnorm import _NormBase

from scaleeq.config import add_scaleeq_config
from scaleeq.decoders.pyramid import PYRAMID_COMBINES, PYRAMID_TRANSFERS, NoPyramid, PyramidOptions, build_pyramid
from scaleeq.engine import get_cfg
from scaleeq.equalization import EqualizerSpec
from scaleeq.fusion import FastNormalizedSum, Fusion, Resize, SoftmaxSum, Sum
from scaleeq.fusion.laterals import Select
from scaleeq.layers import batch_norm
from scaleeq.tasks.configured import pyramid_options
from tests.equalized import equalized

R50 = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
TINY = {"res2": 6, "res3": 16, "res4": 12}
CONV3 = 9 * 256 * 256 + 256
FPN = sum(c * 256 + 256 for c in R50.values()) + 4 * CONV3
SELECTIONS = sum(c * c + c * 256 for c in (256, 512, 1024)) - sum(c * 256 + 256 for c in (256, 512, 1024))
ALIGNMENT = 2 * 256**2 + CONV3 + 9 * 216 * 256 + 216
COMBINES = {"sum": Sum, "softmax": SoftmaxSum, "fast_normalized": FastNormalizedSum}
FAPN = FPN + SELECTIONS + 3 * ALIGNMENT - CONV3


def options(*pairs, channels=256, gate="paper") -> PyramidOptions:
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.MODEL.GATE = gate
    cfg.merge_from_list([f"MODEL.PYRAMID.{value}" if index % 2 == 0 else value for index, value in enumerate(pairs)])
    return pyramid_options(cfg, name="fpn", channels=channels)


def count(*pairs) -> int:
    return sum(p.numel() for p in build_pyramid(R50, options(*pairs), norm=None).parameters())


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ((), FPN),
        (("OUTPUT_CONVS", [3, 3, 3, 3]), FPN + 8 * CONV3),
        (("NAME", "fapn", "LATERAL", "conv"), FPN + 3 * ALIGNMENT - CONV3),
        (("NAME", "fapn", "LATERAL", "squeeze_excite"), FAPN),
        (("NAME", "fapn"), FAPN),
        (("NAME", "fapn", "TRANSFER", "aligned_self"), FAPN - 3 * 2 * 256**2),
        (("NAME", "fapn", "TRANSFER", "deconv"), FAPN + 3 * (16 * 256**2 + 256 - ALIGNMENT)),
        (("LATERAL", "select", "TRANSFER", "aligned", "OUTPUT_CONVS", [1, 1, 1, 0]), FAPN),
        (("RECURSION", "smoothed"), sum(c * 256 + 256 for c in (256, 512, 1024)) + 9 * 2048 * 256 + 256 + 3 * CONV3),
        (("COMBINE", "softmax"), FPN + 6),
        (("CHANNELS", 8, "NAME", "bifpn", "REPEATS", 3), 3840 * 8 + 4 * 8 + 3 * (6 * (72 + 64 + 8) + 14)),
    ],
    ids=str,
)
def test_published_variants_have_the_sizes_that_their_formulas_give(keys, expected):
    assert count(*keys) == expected


def test_published_sizes_of_whole_models():
    """PointRend on ResNet-50, millions: 25.288 of backbone and heads beside the pyramid (arXiv 2108.07058, table 4)."""
    others = 28_632_678 - FPN
    assert FPN == 3_344_384 and FAPN == 7_786_888
    assert round((others + FPN) / 1e6, 1) == 28.6
    assert round((others + FAPN) / 1e6, 1) == 33.1


@pytest.mark.parametrize("norm", [None, torch.nn.InstanceNorm2d], ids=["none", "instance"])
@pytest.mark.parametrize("name", ["fpn", "fapn", "bifpn"])
def test_a_pyramids_norm_is_that_of_all_its_parts(name, norm):
    pyramid = build_pyramid(R50, options("NAME", name, channels=8), norm=norm)
    assert {type(module) for module in pyramid.modules() if isinstance(module, _NormBase)} == {norm} - {None}


def test_the_documented_sizes_are_those_of_the_documented_keys():
    text = (Path(__file__).parents[2] / "docs" / "pyramids.md").read_text()
    rows = re.findall(r"^\|.*\| (NAME .*?) \| ([\d,]+) \|$", text, flags=re.MULTILINE)
    assert len(rows) == 11
    for keys, documented in rows:
        pairs = [part for pair in keys.split(", ") for part in pair.split(" ", 1)]
        norm = batch_norm if pairs[1] == "bifpn" or "aligned_realtime" in pairs else None
        pyramid = build_pyramid(R50, options(*pairs), norm=norm)
        assert f"{sum(p.numel() for p in pyramid.parameters()):,}" == documented, keys


def features(channels=TINY, size=(9, 11)) -> dict[str, torch.Tensor]:
    maps, generator = {}, torch.Generator().manual_seed(0)
    for level, width in channels.items():
        maps[level] = torch.randn(2, width, *size, generator=generator)
        size = tuple((n + 1) // 2 for n in size)
    return maps


@pytest.mark.parametrize("name", ["fpn", "fapn", "bifpn"])
@pytest.mark.parametrize(("transfer", "combine"), itertools.product(PYRAMID_TRANSFERS, PYRAMID_COMBINES))
def test_every_transfer_and_combine_trains_in_every_pyramid(name, transfer, combine):
    """Odd sizes, equalizers in all Fusions; no parameter is left out."""
    torch.manual_seed(0)
    pyramid = equalized(
        build_pyramid(
            TINY, options("NAME", name, "TRANSFER", transfer, "COMBINE", combine, channels=16), norm=batch_norm
        ),
        EqualizerSpec(),
    )
    x = features()
    outputs = pyramid(x)
    assert list(outputs) == list(TINY) == list(pyramid.out_channels)
    for level, y in outputs.items():
        assert y.shape == (2, pyramid.out_channels[level], *x[level].shape[-2:])
    sum(y.square().mean() for y in outputs.values()).backward()
    assert all(p.grad is not None for p in pyramid.parameters())
    fusions = [module for module in pyramid.modules() if isinstance(module, Fusion)]
    assert fusions and all(fusion.equalizers for fusion in fusions)
    assert {type(fusion.combine) for fusion in fusions} == {COMBINES[combine]}


def test_what_a_name_implies():
    plain = build_pyramid(TINY, options(channels=16), norm=None)
    uper = build_pyramid({**TINY, "res4": 16}, options(channels=16), norm=batch_norm, activation=True, ready_top=True)
    transfers = [p.merges["res2"].branches["top_down"].transfer for p in (plain, uper)]
    assert [(type(t), t.mode) for t in transfers] == [(Resize, "nearest"), (Resize, "bilinear")]
    assert list(plain.outputs) == ["res2", "res3", "res4"] and list(uper.outputs) == ["res2", "res3"]
    fapn = build_pyramid({**TINY, "res4": 16}, options("NAME", "fapn", channels=16), norm=None, ready_top=True)
    assert isinstance(fapn.merges["res2"].branches["lateral"].lateral, Select)
    x = features({**TINY, "res4": 16})
    assert fapn(x)["res4"] is x["res4"] and uper(x)["res4"] is x["res4"]
    gated = build_pyramid(TINY, options("TRANSFER", "gated", channels=16, gate="reference"), norm=None)
    assert gated.merges["res2"].branches["top_down"].transfer.gate.map[1].num_features == 1  # its batch norm
    bifpn = build_pyramid(TINY, options("NAME", "bifpn", "DOWN_TRANSFER", "avg", channels=16), norm=batch_norm)
    assert len(bifpn.cells) == 1
    assert bifpn.cells[0].bottom_up["res3"].branches["bottom_up"].transfer.kind == "avg"


@pytest.mark.parametrize("name", ["fpn", "fapn"])
def test_levels_that_nobody_reads_do_not_leave_the_pyramid(name):
    pyramids = []
    for kept in ([], ["res2", "res4"]):
        torch.manual_seed(0)
        pyramids.append(build_pyramid(TINY, options("NAME", name, "OUT_FEATURES", kept, channels=16), norm=None))
    full, part = pyramids
    part.load_state_dict({key: full.state_dict()[key] for key in part.state_dict()})
    x = features()
    found, expected = part(x), full(x)
    assert list(found) == list(part.out_channels) == ["res2", "res4"]
    assert all(torch.equal(found[level], expected[level]) for level in found)
    assert {key for key in full.state_dict() if key not in part.state_dict()} == {
        "outputs.res3.conv.weight", "outputs.res3.conv.bias"
    }  # fmt: skip
    sum(y.sum() for y in found.values()).backward()
    assert all(parameter.grad is not None for parameter in part.parameters())


def test_no_pyramid_passes_the_levels_on():
    pyramid = build_pyramid(TINY, options("NAME", "none"), norm=None, ready_top=True)
    x = features()
    assert isinstance(pyramid, NoPyramid) and pyramid.out_channels == TINY
    assert all(y is x[level] for level, y in pyramid(x).items())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("NAME", "panet"), "NAME is 'panet'; choose one of none, fpn, fapn, bifpn"),
        (("LATERAL", "gate"), "LATERAL is 'gate'; choose one of conv, select, squeeze_excite"),
        (("TRANSFER", "none"), "TRANSFER is 'none'; choose one of bilinear, nearest"),
        (("TRANSFER", "supervised_gated"), "TRANSFER is 'supervised_gated'; choose one of"),
        (("TRANSFER", "max"), "TRANSFER is 'max'; choose one of"),
        (("COMBINE", "concat"), "COMBINE is 'concat'; choose one of sum, softmax, fast_normalized"),
        (("RECURSION", "deep"), "RECURSION is 'deep'; choose one of merged, smoothed"),
        (("NAME", "bifpn", "DOWN_TRANSFER", "bilinear"), "DOWN_TRANSFER is 'bilinear'; choose one of max, avg"),
        (("DOWN_TRANSFER", "max"), "DOWN_TRANSFER is 'max', which NAME 'fpn' cannot use: it has one path, top-down"),
        (("NAME", "fapn", "REPEATS", 2), "REPEATS is 2, which NAME 'fapn' cannot use: it has one path"),
        (("NAME", "bifpn", "LATERAL", "select"), "LATERAL is 'select', which NAME 'bifpn' cannot use: a BiFPN has one"),
        (("NAME", "bifpn", "OUTPUT_CONVS", [1, 1, 1]), r"OUTPUT_CONVS is \(1, 1, 1\), which NAME 'bifpn' cannot use"),
        (("NAME", "none", "COMBINE", "sum"), "COMBINE is 'sum', which NAME 'none' cannot use: there is no pyramid"),
        (("NAME", "none", "TRANSFER", "nearest"), "TRANSFER is 'nearest', which NAME 'none' cannot use"),
        (("RECURSION", "smoothed", "OUTPUT_CONVS", [1, 1, 1]), "OUTPUT_CONVS and RECURSION 'smoothed' exclude"),
        (("NAME", "fapn", "TRANSFER", "aligned_realtime", "LATERAL", "select"), "real-time FaPN .* has plain laterals"),
        (("OUTPUT_CONVS", [1, 1]), r"OUTPUT_CONVS is \[1, 1\]: one number per level is needed, for \['res2'"),
        (("OUTPUT_CONVS", [1, -1, 1]), "CHANNELS, REPEATS and OUTPUT_CONVS count something"),
        (("NAME", "bifpn", "REPEATS", -1), "CHANNELS, REPEATS and OUTPUT_CONVS count something"),
        (("NAME", "bifpn", "OUT_FEATURES", ["res2"]), r"OUT_FEATURES is \('res2',\), which NAME 'bifpn' cannot use"),
        (("OUT_FEATURES", ["res2", "res9"]), r"OUT_FEATURES has \['res9'\]; the levels are res2, res3, res4"),
        (("OUT_FEATURES", ["res3"]), r"OUT_FEATURES is \['res3'\]; it needs 'res2', the finest"),
        (("NAME", "fapn", "CHANNELS", 12), "12 channels cannot be split into 8 offset groups"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        build_pyramid(TINY, options(*keys, channels=16), norm=None)


def test_a_context_of_another_width_is_refused():
    with pytest.raises(ValueError, match="the context is 12 channels wide, the pyramid 16"):
        build_pyramid(TINY, options(channels=16), norm=None, ready_top=True)
