"""A ConvFusion in its model: what code reads and writes of the convolution whose place it takes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from scaleeq import equalize, fold_equalizers
from scaleeq.equalization import ConvFusion, EqualizerSpec
from tests.equalization.any_net import AnyNet, make_batches, make_net
from tests.equalized import equalized

GEOMETRY = ("stride", "padding", "dilation", "groups", "kernel_size", "padding_mode", "in_channels", "out_channels")
ATTRIBUTES = (*GEOMETRY, "weight", "bias", "transposed", "output_padding")


class Reading(AnyNet):
    """Reads attributes of its convolutions in the forward, as code with padding of its own does."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, x):
        """x: (N, 3, H, W) -> (N, 2, H, W)."""
        for conv in (self.fuse["conv"], self.context[0]):
            self.seen.add(tuple(str(getattr(conv, name)) for name in GEOMETRY) + tuple(conv.weight.shape))
            x = x.to(conv.weight.device, conv.weight.dtype)
        return super().forward(x)


def test_attributes_are_the_convolution_s_before_during_and_after():
    torch.manual_seed(0)
    net = Reading().double()
    net(make_batches()[0])
    before = set(net.seen)
    assert len(before) == 2
    equalize(net, make_batches(), num_images=-1)
    net(make_batches()[0])
    folded = fold_equalizers(net)
    folded(make_batches()[0])
    assert net.seen == folded.seen == before
    fusion = net.fuse["conv"]
    assert isinstance(fusion, ConvFusion)
    for name in ATTRIBUTES:
        assert getattr(fusion, name) is getattr(fusion.mix.conv, name), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fusion.nothing
    assert not hasattr(fusion, "__deepcopy__")


def test_what_is_written_is_written_to_the_convolution():
    net = make_net()
    equalize(net, make_batches(), num_images=-1)
    fusion, keys = net.fuse["conv"], list(net.state_dict())
    fusion.weight = nn.Parameter(torch.ones_like(fusion.weight))
    fusion.padding = (1, 1)
    fusion.bias.data.zero_()
    assert float(fusion.mix.conv.weight.detach().mean()) == 1 and fusion.mix.conv.padding == (1, 1)
    assert not fusion.mix.conv.bias.any() and list(net.state_dict()) == keys
    fusion.observer = None
    assert "observer" in vars(fusion) and "observer" not in vars(fusion.mix.conv)


def test_copies_and_pickles_are_whole():
    net = make_net()
    equalize(net, make_batches(), num_images=-1)
    x = make_batches()[0]
    for other in (copy.deepcopy(net), copy.copy(net), pickle.loads(pickle.dumps(net))):
        assert list(other.state_dict()) == list(net.state_dict())
        assert torch.equal(other.eval()(x), net.eval()(x))


def test_it_is_called_as_a_convolution_is():
    conv = nn.Conv2d(4, 2, 1)
    fusion = equalized(ConvFusion(conv, {"a": 1, "b": 3}), EqualizerSpec())
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(fusion(input=x), fusion(x))
