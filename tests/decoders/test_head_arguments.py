"""What decoders and pyramids refuse of what they are built from."""

from __future__ import annotations

import inspect

import pytest

from scaleeq import decoders
from scaleeq.decoders import (
    ASPP,
    FCN,
    PSP,
    Decoder,
    ESeg,
    PyramidDecoder,
    PyramidOptions,
    SemanticFPN,
    SepASPP,
    UPer,
    build_pyramid,
)
from scaleeq.engine import ShapeSpec
from scaleeq.layers import Level

LEVELS = {"res2": Level(8, 4), "res3": Level(8, 8), "res4": Level(8, 16), "res5": Level(8, 32)}
DECODERS = [UPer, SemanticFPN, ESeg, FCN, PSP, ASPP, SepASPP]


def make(decoder, levels=("res2", "res3", "res4", "res5"), **options):
    return decoder({name: LEVELS[name] for name in levels} if isinstance(levels, tuple) else levels, 32, **options)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_decoder_has_at_most_six_parameters(decoder):
    parameters = list(inspect.signature(decoder).parameters)
    assert parameters[:2] == ["levels", "channels"] and len(parameters) <= 6


def test_every_decoder_is_asked():
    assert {each for each in vars(decoders).values() if isinstance(each, type) and issubclass(each, Decoder)} == {
        Decoder, PyramidDecoder, *DECODERS,
    }  # fmt: skip


@pytest.mark.parametrize("decoder", [UPer, SemanticFPN, ESeg, FCN])
def test_levels_in_the_wrong_order(decoder):
    with pytest.raises(ValueError, match=r"levels has strides .*; give the levels finest first: res2, res3"):
        make(decoder, ("res5", "res4", "res3", "res2"))


@pytest.mark.parametrize(("decoder", "number"), [(PSP, "1 level"), (ASPP, "1 level"), (SepASPP, "2 levels")])
def test_the_number_of_levels(decoder, number):
    for levels in [("res2", "res3", "res5"), ("res3", "res4") if number == "1 level" else ("res5",)]:
        with pytest.raises(ValueError, match=f"{decoder.__name__} reads {number}; levels has {', '.join(levels)}"):
            make(decoder, levels)


@pytest.mark.parametrize("decoder", DECODERS)
def test_kinds_of_levels(decoder):
    for levels, match in (
        ({}, "levels is empty; give name -> Level"),
        (["res2", "res5"], "levels is a list; give name -> Level"),
        ({"res2": (8, 4), "res5": (8, 32)}, r"level 'res2' of levels is \(8, 4\); give Level\(channels, stride\)"),
        ({"res2": Level(8, None)}, r"level 'res2' of levels is Level\(channels=8, stride=None\)"),  # type: ignore
    ):
        with pytest.raises(ValueError, match=match):
            make(decoder, levels)


def test_shape_specs_of_the_engine_are_levels():
    assert make(PSP, {"res5": ShapeSpec(channels=8, stride=32)}).out.stride == 32


def test_what_would_have_no_effect():
    with pytest.raises(ValueError, match=r"widths is 'contexts'; choose one of context, low_level"):
        make(SepASPP, ("res2", "res4"), widths={"contexts": 8})


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
