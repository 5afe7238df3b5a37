"""What heads and pyramids refuse of what they are built from."""

from __future__ import annotations

import pytest

from scaleeq.decoders.aspp import ASPPHead
from scaleeq.decoders.base import Level
from scaleeq.decoders.eseg import ESegHead
from scaleeq.decoders.fcn import FCNHead
from scaleeq.decoders.psp import PSPHead
from scaleeq.decoders.pyramid import PyramidOptions, build_pyramid
from scaleeq.decoders.semantic_fpn import SemanticFPNHead
from scaleeq.decoders.sep_aspp import SepASPPHead
from scaleeq.decoders.uper import UPerHead
from scaleeq.engine import ShapeSpec

LEVELS = {"res2": Level(8, 4), "res3": Level(8, 8), "res4": Level(8, 16), "res5": Level(8, 32)}
SIZES = {"channels": 32, "num_classes": 3}


def make(head, levels=("res2", "res3", "res4", "res5"), **options):
    shape = {name: LEVELS[name] for name in levels} if isinstance(levels, tuple) else levels
    return head(input_shape=shape, **SIZES, **options)


@pytest.mark.parametrize("head", [UPerHead, SemanticFPNHead, ESegHead, FCNHead])
def test_levels_in_the_wrong_order(head):
    with pytest.raises(ValueError, match=r"input_shape has strides .*; give the levels finest first: res2, res3"):
        make(head, ("res5", "res4", "res3", "res2"))


@pytest.mark.parametrize(("head", "number"), [(PSPHead, "1 level"), (ASPPHead, "1 level"), (SepASPPHead, "2 levels")])
def test_the_number_of_levels(head, number):
    for levels in [("res2", "res3", "res5"), ("res3", "res4") if number == "1 level" else ("res5",)]:
        with pytest.raises(ValueError, match=f"{head.__name__} reads {number}; input_shape has {', '.join(levels)}"):
            make(head, levels)


@pytest.mark.parametrize("head", [UPerHead, SemanticFPNHead, ESegHead, FCNHead, PSPHead, ASPPHead, SepASPPHead])
def test_kinds_of_levels(head):
    for levels, match in (
        ({}, "input_shape is empty; give name -> Level"),
        (["res2", "res5"], "input_shape is a list; give name -> Level"),
        ({"res2": (8, 4), "res5": (8, 32)}, r"level 'res2' of input_shape is \(8, 4\); give Level\(channels, stride\)"),
        ({"res2": Level(8, None)}, r"level 'res2' of input_shape is Level\(channels=8, stride=None\)"),  # type: ignore
    ):
        with pytest.raises(ValueError, match=match):
            make(head, levels)


def test_shape_specs_of_the_engine_are_levels():
    assert make(PSPHead, {"res5": ShapeSpec(channels=8, stride=32)}).common_stride == 32


def test_what_would_have_no_effect():
    with pytest.raises(ValueError, match=r"widths is 'contexts'; choose one of context, low_level"):
        make(SepASPPHead, ("res2", "res4"), widths={"contexts": 8})


@pytest.mark.parametrize("name", ["none", "fpn", "fapn", "bifpn"])
def test_kinds_of_pyramid_levels(name):
    options = PyramidOptions(name=name, channels=8)
    for levels, match in (
        ({}, "in_channels is empty"),
        ([8, 8], "in_channels is a list; give level -> channels"),
        ({"p2": 8, "p3": Level(8, 8)}, r"level 'p3' has Level\(channels=8, stride=8\) channels; give a whole number"),
    ):
        with pytest.raises(ValueError, match=match):
            build_pyramid(levels, options, norm=None)


def test_a_string_is_no_list_of_levels():
    with pytest.raises(ValueError, match=r"MODEL\.PYRAMID\.OUT_FEATURES is the string 'p2'; give a list"):
        PyramidOptions(name="fpn", channels=8, out_features="p2")  # type: ignore[arg-type]
