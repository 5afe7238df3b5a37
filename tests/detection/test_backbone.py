"""PyramidBackbone: levels, sizes, names in a checkpoint, refusals.

Oracles: Detectron2's rules of levels; sizes counted of Detectron2's FPN and of FaPN's authors' pyramid; the pyramid
alone on the backbone's maps.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.backbones import PlainBackbone
from scaleeq.decoders import PyramidOptions, build_pyramid
from scaleeq.decoders.extra import EXTRA_LEVELS, ConvLevels, make_extra
from scaleeq.detection import PyramidBackbone
from scaleeq.equalization import EqualizerSpec, equalize_fusions
from scaleeq.equalization.calibration import fusions_of
from scaleeq.layers import Level

R50 = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
NARROW = {"res2": 4, "res3": 6, "res4": 8, "res5": 10}
# Parameters of pyramid and extra levels over a ResNet-50, width 256, no norm.
SIZES = {
    ("fpn", "max_pool"): 3_344_384,
    ("fapn", "max_pool"): 7_786_888,
    ("bifpn", "max_pool"): 1_326_862,
    ("fpn", "convs_from_res5"): 7_997_440,
    ("fapn", "convs_from_res5"): 11_155_632,
    ("bifpn", "convs_from_res5"): 6_499_593,
    ("fpn", "convs_from_p5"): 3_868_672,
}


class Pools(PlainBackbone):
    """One strided 1x1 convolution a level: small, and each of its values sees one pixel."""

    def __init__(self, widths=NARROW, strides=(4, 8, 16, 32)):
        super().__init__()
        self._levels = {name: Level(width, stride) for (name, width), stride in zip(widths.items(), strides)}  # noqa: B905
        self.convs = nn.ModuleDict(
            {name: nn.Conv2d(3, level.channels, 1, level.stride) for name, level in self._levels.items()}
        )

    def forward(self, image):
        return {name: conv(image) for name, conv in self.convs.items()}

    def levels(self):
        return self._levels


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.parametrize("pyramid", ["fpn", "fapn", "bifpn"])
@pytest.mark.parametrize("extra", ["", *EXTRA_LEVELS])
@pytest.mark.parametrize("size", [(64, 96), (100, 75), (33, 130)])
def test_levels_are_those_that_it_states(pyramid, extra, size):
    torch.manual_seed(0)
    backbone = PyramidBackbone.of(Pools(), pyramid, channels=16, extra=extra)
    maps = backbone(torch.randn(2, 3, *size))
    names = ["p2", "p3", "p4", "p5", "p6", "p7"][: 4 + (0 if not extra else 1 if extra == "max_pool" else 2)]
    assert list(maps) == list(backbone.levels()) == names
    for name, level in backbone.levels().items():
        assert level == (16, 2 ** int(name[1:]))
        assert maps[name].shape == (2, 16, *(-(-side // level.stride) for side in size))


@pytest.mark.parametrize("pyramid", ["fpn", "fapn", "bifpn"])
def test_it_is_the_pyramid_on_the_bottom_ups_maps(pyramid):
    torch.manual_seed(0)
    backbone = PyramidBackbone.of(Pools(), pyramid, channels=16, extra="convs_from_res5")
    image = torch.randn(1, 3, 64, 64)
    features = backbone.bottom_up(image)
    alone = build_pyramid(NARROW, PyramidOptions(name=pyramid, channels=16), norm=None)
    alone.load_state_dict(backbone.pyramid.state_dict())
    expected = dict(zip(["p2", "p3", "p4", "p5"], alone(features).values(), strict=True))
    expected["p6"] = F.conv2d(features["res5"], *backbone.extra.first.parameters(), stride=2, padding=1)
    expected["p7"] = F.conv2d(expected["p6"].relu(), *backbone.extra.second.parameters(), stride=2, padding=1)
    for name, x in backbone(image).items():
        assert torch.equal(x, expected[name])
    assert {name.split(".")[0] for name in backbone.state_dict()} == {"bottom_up", "pyramid", "extra"}


@pytest.mark.parametrize(("pyramid", "extra"), SIZES)
def test_sizes(pyramid, extra):
    with torch.device("meta"):
        widths = {name: w for name, w in R50.items() if extra == "max_pool" or name != "res2"}
        backbone = PyramidBackbone.of(Pools(R50), pyramid, in_features=list(widths), extra=extra)
    assert count(backbone.pyramid, backbone.extra) == SIZES[pyramid, extra]


def test_extra_levels_start_with_caffe2s_xavier_fill():
    torch.manual_seed(0)
    extra = make_extra("convs_from_p5", backbone_width=7, channels=64)
    assert isinstance(extra, ConvLevels)
    for conv in (extra.first, extra.second):
        assert not conv.bias.any()
        bound = (3 / (64 * 9)) ** 0.5
        assert 0.98 * bound < conv.weight.abs().max() <= bound
    with pytest.raises(ValueError, match="EXTRA_LEVELS is 'pool'; choose one of max_pool"):
        make_extra("pool", backbone_width=7, channels=64)


def test_what_leaves_and_what_does_not():
    options = PyramidOptions(name="fpn", channels=8, out_features=("p2", "p5"))
    backbone = PyramidBackbone.of(Pools(), options)
    assert list(backbone(torch.randn(1, 3, 64, 64))) == list(backbone.levels()) == ["p2", "p5", "p6"]
    assert list(backbone.pyramid.outputs) == ["res2", "res5"]
    for names, message in (
        (("p2", "res3"), r"OUT_FEATURES has \['res3'\]; the levels are p2, p3, p4, p5"),
        (("p3",), r"without 'p2', the finest: leave its level 'res2' out of MODEL.FPN.IN_FEATURES"),
    ):
        with pytest.raises(ValueError, match=message):
            PyramidBackbone.of(Pools(), PyramidOptions(name="fpn", channels=8, out_features=names))


def test_parts_that_nobody_reads_go():
    backbone = PyramidBackbone.of(Pools(), "fpn", channels=8, extra="convs_from_p5")
    backbone.keep_levels(["p2", "p3"])
    assert list(backbone(torch.randn(1, 3, 64, 64))) == list(backbone.levels()) == ["p2", "p3"]
    assert not [name for name in backbone.state_dict() if name.startswith(("extra", "pyramid.outputs.res5"))]
    backbone = PyramidBackbone.of(Pools(), "fpn", channels=8, extra="convs_from_p5")
    backbone.keep_levels(["p2", "p7"])
    assert list(backbone(torch.randn(1, 3, 64, 64))) == ["p2", "p5", "p6", "p7"], "p6 and p7 are made of p5"


def test_sizes_of_images_that_it_asks_for():
    backbone = PyramidBackbone.of(Pools(), "fpn", channels=8)
    assert (backbone.size_divisibility, backbone.padding_constraints) == (32, {})
    bottom_up = Pools()
    bottom_up.size_divisibility, bottom_up.padding_constraints = 48, {"square_size": 256}
    backbone = PyramidBackbone.of(bottom_up, "fpn", channels=8)
    assert (backbone.size_divisibility, backbone.padding_constraints) == (96, {"square_size": 256})
    bottom_up.padding_constraints = {"size_divisibility": 64}  # goes before the other, as in Detectron2
    assert PyramidBackbone.of(bottom_up, "fpn", channels=8).size_divisibility == 64


def test_its_fusions_are_equalized_in_scope_all():
    backbone = PyramidBackbone.of(Pools(), "fapn", channels=16)
    with pytest.raises(ValueError, match="no Fusion in scope 'head'"):
        equalize_fusions(backbone, EqualizerSpec(), "head")
    equalize_fusions(backbone, EqualizerSpec(), "all")
    assert list(fusions_of(backbone)) == [f"pyramid.merges.{level}" for level in ("res4", "res3", "res2")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_features": ["res3", "res6"]}, r"name each level once, not \['res6'\]; the bottom-up has res2"),
        ({"in_features": ["res3", "res3"]}, "name each level once; the bottom-up has res2, res3, res4, res5"),
        ({"in_features": ["res2", "res4"]}, r"strides \[4, 16\]; a pyramid backbone needs two or more"),
        ({"in_features": ["res5"]}, r"strides \[32\]; a pyramid"),
        ({"bottom_up": Pools(strides=(4, 8, 8, 8))}, r"strides \[4, 8, 8, 8\]; .*OUTPUT_STRIDE 32"),
        ({"bottom_up": Pools(strides=(3, 6, 12, 24))}, r"strides \[3, 6, 12, 24\]; .*powers of two"),
        ({"pyramid": "none"}, "NAME is 'none', but a pyramid backbone has one; choose fpn, fapn or bifpn"),
        ({"pyramid": "pan"}, "NAME is 'pan'; choose one of"),
        ({"extra": "p6"}, "EXTRA_LEVELS is 'p6'; choose one of max_pool, convs_from_res5, convs_from_p5"),
    ],
)  # fmt: skip
def test_refusals(changes, message):
    given = {"bottom_up": Pools(), "pyramid": "fpn", "channels": 8} | changes
    with pytest.raises(ValueError, match=message):
        PyramidBackbone.of(given.pop("bottom_up"), given.pop("pyramid"), **given)


def test_a_bottom_up_that_predicts_classes_is_refused():
    bottom_up = Pools()
    bottom_up.aux_loss_weights = {"stage2": 0.3}
    with pytest.raises(ValueError, match=r"Pools predicts classes for its gates.*GATES 'unsupervised' or 'none'"):
        PyramidBackbone.of(bottom_up, "fpn")
