"""choices: what is known is given back, what is not is refused in one wording."""

from __future__ import annotations

import pytest

from scaleeq.choices import did_you_mean, one_of


def test_a_known_value_is_given_back():
    assert one_of("fpn", ("fpn", "fapn"), key="MODEL.PYRAMID.NAME") == "fpn"
    assert one_of(8, (8, 16, 32), key="MODEL.TIMM.OUTPUT_STRIDE") == 8


@pytest.mark.parametrize("value", ["fpm", "", None, 1, True])
def test_an_unknown_one_is_refused_with_key_value_and_choices(value):
    with pytest.raises(ValueError, match=r"MODEL.PYRAMID.NAME is .*; choose one of fpn, fapn") as refusal:
        one_of(value, ("fpn", "fapn"), key="MODEL.PYRAMID.NAME")
    assert repr(value) in str(refusal.value)


def test_a_value_of_another_type_is_not_the_same():
    with pytest.raises(ValueError, match="OUTPUT_STRIDE is True; choose one of 1, 2"):
        one_of(True, (1, 2), key="OUTPUT_STRIDE")


def test_an_empty_name_is_shown_as_one():
    with pytest.raises(ValueError, match="choose one of '', concat, sum"):
        one_of("product", ("", "concat", "sum"), key="MODEL.FUSION.COMBINE")


def test_the_nearest_name_is_named_whatever_its_case():
    assert did_you_mean("uperhead", ["UPerHead", "PSPHead"]) == " (did you mean UPerHead?)"
    assert did_you_mean("nothing like it", ["UPerHead"]) == ""
