"""Attaching equalizers to a built model: what is in scope, what is refused, and that a refusal changes nothing.

That keys, values, random state and refusals are those of before is in tests/test_model_records.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scaleeq import calibrate, fold_equalizers
from scaleeq.equalization import EqualizerSpec, equalize_fusions
from scaleeq.equalization.calibration import fusions_of
from scaleeq.fusion import Branch, Concat, Fusion, Sum
from scaleeq.layers import ConvNormAct


def fusion(combine: type = Concat) -> Fusion:
    mix = ConvNormAct(4, 3) if combine is Concat else None
    return Fusion({"a": Branch(2), "b": Branch(2)}, combine=combine(), mix=mix)


class Model(nn.Module):
    """A Fusion in each part of a model."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(fusion())
        self.pyramid = nn.ModuleDict({"p2": fusion(Sum)})
        self.decoder = nn.ModuleList([fusion()])
        self.aux_heads = nn.ModuleDict({"res4": fusion()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, 2, H, W) -> (N, 3, H, W)."""
        return self.decoder[0]({"a": self.pyramid["p2"]({"a": x, "b": x}), "b": x})


@pytest.mark.parametrize(("scope", "expected"), [("head", ["decoder.0"]), ("all", ["pyramid.p2", "decoder.0"])])
def test_scopes(scope, expected):
    model = Model()
    keys = list(model.state_dict())
    equalize_fusions(model, EqualizerSpec(), scope)
    assert list(fusions_of(model)) == expected
    assert [key for key in model.state_dict() if ".equalizers." not in key] == keys
    x = torch.randn(4, 2, 5, 5)
    calibrate(model, [x], num_images=-1)
    model.eval()
    torch.testing.assert_close(fold_equalizers(model)(x), model(x))


def test_equalizers_are_where_the_model_is():
    model = Model().double().to("meta").eval()
    equalize_fusions(model, EqualizerSpec())
    equalizer = model.decoder[0].equalizer_of["a"]
    assert (equalizer.std.device.type, equalizer.std.dtype) == ("meta", torch.float64)
    assert equalizer.num_images.dtype == torch.int64 and not model.decoder[0].equalizers.training
    half = Model().half()
    equalize_fusions(half, EqualizerSpec())
    assert half.decoder[0].equalizer_of["a"].std.dtype == torch.float32


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((EqualizerSpec(), "heads"), r"scope is 'heads'; choose one of head, all \(did you mean head\?\)"),
        (("module",), r"spec is 'module'; give an EqualizerSpec"),
        ((True,), r"spec is True; give an EqualizerSpec"),
        ((None,), r"spec is None; give an EqualizerSpec"),
    ],
)
def test_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        equalize_fusions(Model(), *arguments)


def test_a_model_without_fusions_in_scope():
    with pytest.raises(ValueError, match="Conv2d has no Fusion in scope 'all', so there is nothing to equalize"):
        equalize_fusions(nn.Conv2d(1, 1, 1), EqualizerSpec(), "all")


def test_once_is_enough():
    model = Model()
    equalize_fusions(model, EqualizerSpec())
    with pytest.raises(ValueError, match=r"decoder\.0 has scale equalizers already; begin with fold_equalizers"):
        equalize_fusions(model, EqualizerSpec(), "all")
    assert list(fusions_of(model)) == ["decoder.0"]


def test_a_refusal_in_one_fusion_leaves_all_as_they_were():
    model = Model()
    model.decoder.append(fusion(Sum))
    with pytest.raises(ValueError, match="'init': Sum has no weights whose training"):
        equalize_fusions(model, EqualizerSpec("init"))
    assert not fusions_of(model)
