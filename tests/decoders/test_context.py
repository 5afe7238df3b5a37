"""Contexts as Fusions. Oracle: the expression written out with torch functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scaleeq.decoders import FusionOptions
from scaleeq.decoders.context import AtrousOptions, atrous_pooling, pyramid_pooling


def make_input() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 8, 9, 7, dtype=torch.float64)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("combine", ["concat", "sum"])
def test_atrous_pooling_is_a_fusion_of_mean_pointwise_and_dilated_convolutions(combine, separable):
    torch.manual_seed(0)
    fusion = atrous_pooling(8, 4, dilations=(2, 3), separable=separable, combine=combine).double().eval()
    x = make_input()
    laterals = {name: branch.lateral for name, branch in fusion.branches.items()}
    assert list(laterals) == ["pool", "conv", "dilated2", "dilated3"]
    maps = [laterals["pool"][1](x.mean((2, 3), keepdim=True)).expand(-1, -1, 9, 7), laterals["conv"](x)]
    for dilation in (2, 3):
        lateral = laterals[f"dilated{dilation}"]
        conv = lateral.depthwise if separable else lateral
        inner = F.conv2d(x, conv.conv.weight, padding=dilation, dilation=dilation, groups=8 if separable else 1)
        inner = conv.norm(inner).relu()
        maps.append(lateral.pointwise(inner) if separable else inner)
    combined = torch.cat(maps, 1) if combine == "concat" else sum(maps)
    torch.testing.assert_close(fusion(x), fusion.mix(combined), rtol=0, atol=1e-12)
    assert fusion(x).shape == (2, 4, 9, 7)


@pytest.mark.parametrize("transfer", ["bilinear", "nearest"])
def test_gates_of_pyramid_pooling_act_before_the_pooling_and_before_the_upsampling(transfer):
    torch.manual_seed(0)
    plain = pyramid_pooling(8, 4, pool_scales=(2, 3), transfer=transfer).double().eval()
    x = make_input()
    maps = [x]
    for cells in (2, 3):
        pooled = plain.branches[f"pool{cells}"].lateral[1](F.adaptive_avg_pool2d(x, cells))
        corners = {"align_corners": False} if transfer == "bilinear" else {}
        maps.append(F.interpolate(pooled, size=(9, 7), mode=transfer, **corners))
    torch.testing.assert_close(plain(x), plain.mix(torch.cat(maps, 1)), rtol=0, atol=1e-12)

    gated = pyramid_pooling(8, 4, pool_scales=(2, 3), gate="paper").double().eval()
    maps = [x]
    for cells in (2, 3):
        branch = gated.branches[f"pool{cells}"]
        before, (_, block) = branch.lateral
        pooled = block(F.adaptive_avg_pool2d(x * before.map(x), cells))
        upsampled = pooled * branch.transfer.gate.map(pooled)
        maps.append(F.interpolate(upsampled, size=(9, 7), mode="bilinear", align_corners=False))
    torch.testing.assert_close(gated(x), gated.mix(torch.cat(maps, 1)), rtol=0, atol=1e-12)


def test_repeated_and_empty_scales_are_refused():
    with pytest.raises(ValueError, match=r"POOL_SCALES is \[2, 2\]; give different"):
        pyramid_pooling(8, 4, pool_scales=(2, 2))
    with pytest.raises(ValueError, match=r"ASPP_DILATIONS is \[\]; give different"):
        atrous_pooling(8, 4, dilations=())


def test_unknown_parts_are_refused_with_the_key_that_names_them():
    with pytest.raises(ValueError, match=r"MODEL.GATE is 'open'; choose one of"):
        AtrousOptions(gate="open")
    with pytest.raises(ValueError, match=r"MODEL.FUSION.COMBINE is 'max'; choose one of"):
        AtrousOptions(combine="max")
    with pytest.raises(ValueError, match=r"MODEL.FUSION.COMBINE is 'max'; choose one of"):
        FusionOptions(combine="max")
