"""What a Fusion refuses, where it is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaleeq.decoders.context import pyramid_pooling
from scaleeq.equalization import EqualizerSpec
from scaleeq.fusion import Branch, Concat, Fusion, Resize, Sum
from scaleeq.layers import ConvNormAct
from scaleeq.layers.refusals import refuse_widths
from tests.equalized import equalized


def fusion(**options) -> Fusion:
    given = {"branches": {"a": Branch(2), "b": Branch(3)}, "combine": Concat(), "mix": ConvNormAct(5, 2)} | options
    return Fusion(given.pop("branches"), **given)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"branches": {}}, "branches are empty; give name -> Branch"),
        ({"branches": [Branch(2), Branch(3)]}, "branches are a list; give name -> Branch"),
        ({"branches": {"a": (2, 4)}}, r"branch 'a' is a tuple; give Branch\(channels"),
        ({"branches": {"a.b": Branch(5)}}, "a branch cannot be named 'a.b'"),
        ({"branches": {"keys": Branch(5)}}, "a branch cannot be named 'keys'"),
        (
            {"branches": {"a": Branch(2), "b": Branch(4)}},
            "widths are a 2, b 4, 6 in all, but the conv.* 5 input",
        ),
        ({"combine": "concat"}, r"combine is 'concat'; give a module such as Concat\(\)"),
        ({"reference": "c"}, "reference branch 'c' is not one of a, b"),
    ],
)
def test_constructor(options, match):
    with pytest.raises(ValueError, match=match):
        fusion(**options)


@pytest.mark.parametrize("channels", [0, -1, 2.0, "2", None, True, (2, 4)])
def test_channels_of_a_branch(channels):
    with pytest.raises(ValueError, match=r"a branch has .* channels; give a whole number"):
        Branch(channels)


def maps(**widths):
    return {name: torch.rand(1, width, 4, 4) for name, width in widths.items()}


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (maps(a=2), "inputs are a, and its branches are a, b"),
        (maps(a=2, b=3, c=1), "inputs are a, b, c, and its branches are a, b"),
        ({}, "inputs are none, and its branches are a, b"),
        (list(maps(a=2, b=3).values()), "inputs are a list; give one map, or a dict of maps for a, b"),
        (maps(a=3, b=2), r"branch 'a' is a map of 3 channels, and Branch\(2\) was stated"),
    ],
)
@pytest.mark.parametrize("spec", [None, EqualizerSpec(), EqualizerSpec("module")])
def test_inputs(inputs, match, spec):
    with pytest.raises(ValueError, match=match):
        equalized(fusion(), spec).eval()(inputs)


def test_the_width_that_counts_is_that_of_the_transferred_branch():
    class Narrow(nn.Conv2d):
        keeps_constants = False

        def forward(self, x, reference):
            """x: (N, 5, H, W); reference: any -> (N, 3, H, W)."""
            return super().forward(x)

    branches = {"a": Branch(2), "b": Branch(3, transfer=Narrow(5, 3, 1)), "c": Branch(2, transfer=Resize())}
    made = fusion(branches=branches, mix=ConvNormAct(7, 2)).eval()
    assert made({**maps(a=2, b=5), "c": torch.rand(1, 2, 2, 2)}).shape == (1, 2, 4, 4)


@pytest.mark.parametrize("scales", ["1236", (1, 2.0), ("1",)])
def test_pool_scales(scales):
    with pytest.raises(ValueError, match=r"POOL_SCALES is .*; give a list of different positive whole numbers"):
        pyramid_pooling(4, 2, pool_scales=scales)


def test_a_sum_of_branches_of_several_widths():
    with pytest.raises(ValueError, match="Sum adds branches of one width; theirs are a 2, b 1"):  # would be broadcast
        fusion(branches={"a": Branch(2), "b": Branch(1)}, combine=Sum(), mix=None)(maps(a=2, b=1))


def test_half_precision_weights_that_cannot_hold_a_fold_stay_as_they_were():
    """0.1 / 1e-6 is 100000; float16 ends at 65504, and bfloat16 holds it."""

    def calibrated(dtype: torch.dtype) -> Fusion:
        made = equalized(fusion(), EqualizerSpec())
        nn.init.constant_(made.mix.conv.weight, 0.1)
        for name, std in (("a", 1.0), ("b", 1e-6)):
            made.equalizer_of[name].set_statistics(torch.zeros(()), torch.tensor(std), 10)
        return made.to(dtype)

    refused = calibrated(torch.float16)
    before = {key: value.clone() for key, value in refused.state_dict().items()}
    with pytest.raises(ValueError, match=r"branch 'b' has a std of 1e-06, and float16 weights cannot hold"):
        refused.fold()
    assert refused.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in refused.state_dict().items())
    folded = calibrated(torch.bfloat16)
    folded.fold()
    assert folded.mix.conv.weight[:, 2:].float().mean().item() == pytest.approx(1e5, rel=0.01)


@pytest.mark.parametrize(
    ("widths", "told"),
    [
        ({}, "in_channels is empty; give level -> channels"),
        ([8, 4], "in_channels is a list; give level -> channels"),
        ({"p2": 8, "p3": 0}, "level 'p3' has 0 channels"),
    ],
)
def test_what_are_no_widths_of_levels(widths, told):
    refuse_widths({"p2": 8, "p3": 4})
    with pytest.raises(ValueError, match=told):
        refuse_widths(widths)
