"""BiFPN. Oracle: effdet 0.4.1's outputs, recorded by record_effdet.py, with mapped weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scaleeq.decoders.bifpn import BiFPN
from scaleeq.equalization import EqualizerSpec
from scaleeq.fusion import Fusion, Pool
from scaleeq.layers import BatchNorm2d
from tests.equalized import equalized

GOLDENS = Path(__file__).parent / "goldens" / "effdet_bifpn.npz"
LEVELS = [f"p{level}" for level in range(2, 10)]
METHODS = {"softmax": "attn", "fast_normalized": "fastattn", "sum": "sum"}
WIDTH = 4


def batch_norm(channels: int) -> nn.Module:
    return BatchNorm2d(channels, eps=1e-3)


def split(flat: np.ndarray, sizes: np.ndarray) -> dict[str, torch.Tensor]:
    """Level -> (2, WIDTH, H, W)."""
    parts = np.split(flat, np.cumsum([2 * WIDTH * height * width for height, width in sizes])[:-1])
    return {
        level: torch.from_numpy(part.reshape(2, WIDTH, *size))
        for level, part, size in zip(LEVELS, parts, sizes, strict=True)
    }


def our_name(name: str) -> str:
    """cell.<cell>.fnode.<node>.<rest>: nodes run from P8 down to P2, then from P3 up to P9."""
    _, cell, _, node, rest = name.split(".", 4)
    index = int(node)
    chain, level = ("top_down", f"p{8 - index}") if index < 7 else ("bottom_up", f"p{index - 4}")
    for theirs, ours in (
        ("combine.edge_weights", "combine.WEIGHTS"),
        ("after_combine.conv.conv_dw", "mix.depthwise"),
        ("after_combine.conv.conv_pw", "mix.pointwise"),
        ("after_combine.conv.bn", "mix.norm"),
    ):
        rest = rest.replace(theirs, ours)
    return f"cells.{cell}.{chain}.{level}.{rest}"


@pytest.mark.parametrize("combine", METHODS)
def test_bifpn_equals_effdets(combine):
    goldens = np.load(GOLDENS)
    method = METHODS[combine]
    ours = BiFPN(dict.fromkeys(LEVELS, WIDTH), WIDTH, repeats=2, combine=combine, norm=batch_norm).double().eval()
    state = ours.state_dict()
    weights, position = torch.from_numpy(goldens[f"{method}/weights"]), 0
    weight_name = {"softmax": "logits", "fast_normalized": "raw_weights"}.get(combine, "")
    loaded = set()
    for name in goldens[f"{method}/names"]:
        key = our_name(str(name)).replace("WEIGHTS", weight_name)
        count = state[key].numel()
        state[key] = weights[position : position + count].view_as(state[key])
        position += count
        loaded.add(key)
    assert position == len(weights)
    assert all(key in loaded or key.endswith("num_batches_tracked") for key in state)
    ours.load_state_dict(state)
    expected = split(goldens[f"{method}/outputs"], goldens["sizes"])
    outputs = ours(split(goldens["inputs"], goldens["sizes"]))
    assert list(outputs) == LEVELS
    for level, y in outputs.items():
        torch.testing.assert_close(y, expected[level], rtol=1e-10, atol=1e-10)


def features(channels: dict[str, int], size=(9, 13)) -> dict[str, torch.Tensor]:
    maps, generator = {}, torch.Generator().manual_seed(0)
    for level, width in channels.items():
        maps[level] = torch.randn(2, width, *size, generator=generator)
        size = tuple((n + 1) // 2 for n in size)
    return maps


def test_a_level_has_one_lateral_where_its_width_differs():
    pyramid = BiFPN({"p3": 6, "p4": WIDTH, "p5": 5}, WIDTH, repeats=2)
    assert set(pyramid.laterals) == {"p3", "p5"}
    x = features({"p3": 6, "p4": WIDTH, "p5": 5})
    outputs = pyramid(x)
    assert {level: y.shape for level, y in outputs.items()} == {level: (2, WIDTH, *x[level].shape[-2:]) for level in x}
    sum(y.square().sum() for y in outputs.values()).backward()
    unused = [name for name, p in pyramid.named_parameters() if p.grad is None]
    assert not unused


@pytest.mark.parametrize("down_transfer", ["max", "avg"])
def test_what_goes_up_is_pooled_as_asked(down_transfer):
    pyramid = BiFPN({"p3": 6, "p4": WIDTH, "p5": 5}, WIDTH, repeats=2, down_transfer=down_transfer)
    pools = [module.kind for module in pyramid.modules() if isinstance(module, Pool)]
    assert pools == [down_transfer] * 4


def test_every_node_is_a_fusion_and_can_be_equalized():
    pyramid = equalized(BiFPN(dict.fromkeys(LEVELS, WIDTH), WIDTH, repeats=3), EqualizerSpec())
    fusions = [m for m in pyramid.modules() if isinstance(m, Fusion)]
    assert len(fusions) == 3 * 14
    assert sorted(len(fusion.equalizer_of) for fusion in fusions) == [2] * 24 + [3] * 18


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("width", "cell"), [(64, 67_234), (96, 143_842)])
def test_a_cell_over_eight_levels_has_the_published_size(width, cell):
    """14 nodes of depthwise, pointwise and norm, and 7 x 2 + 6 x 3 + 1 x 2 fusion weights."""
    channels = dict.fromkeys(LEVELS, width)
    one, two = (count(BiFPN(channels, width, repeats=repeats)) for repeats in (1, 2))
    assert one == cell == 14 * (9 * width + width**2 + 2 * width) + 34
    assert two - one == cell


def test_one_cell_of_two_levels_is_the_smallest():
    x = features({"p3": WIDTH, "p4": WIDTH})
    outputs = BiFPN({"p3": WIDTH, "p4": WIDTH}, WIDTH)(x)
    assert {level: y.shape for level, y in outputs.items()} == {level: y.shape for level, y in x.items()}


def test_refusals():
    with pytest.raises(ValueError, match="at least one cell and two levels, not 0"):
        BiFPN({"p3": 4, "p4": 4}, 4, repeats=0)
    with pytest.raises(ValueError, match=r"at least one cell and two levels, not 1 and \['p3'\]"):
        BiFPN({"p3": 4}, 4)
