"""Scales that half precision cannot hold. Oracles: the same model in float64; the range of float16 in closed form."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq import calibrate, equalize, fold_equalizers
from scaleeq.equalization import EqualizerSpec, ScaleEqualizer
from scaleeq.equalization.calibration import fusions_of
from scaleeq.fusion import Branch, Concat, Fusion, make_combine
from scaleeq.fusion.combine import Sum
from scaleeq.layers import ConvNormAct
from scaleeq.ops.weighted_sum import Affine
from tests.equalized import equalized

TINY = 1.2e-5  # 1 / TINY = 8.3e4 is beyond float16, whose largest number is 65504
IMPLEMENTATIONS = ["module", "reparametrize", "init", "init_scaled"]


class QuietBranch(nn.Module):
    """A 1x1 convolution that reads a map of std 1 and one of std `std`."""

    def __init__(self, std=TINY):
        super().__init__()
        torch.manual_seed(0)
        self.std = std
        self.fuse = nn.Conv2d(16, 8, 1)

    def forward(self, x):
        """x: (N, 16, H, W) -> (N, 8, H, W)."""
        quiet = F.interpolate(x[:, 8:, ::2, ::2] * self.std, scale_factor=2.0)
        return self.fuse(torch.cat([x[:, :8], quiet], 1))


def images():
    return torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(1))


def exact(std=TINY) -> torch.Tensor:
    """The equalized output in float64."""
    net = QuietBranch(std).double()
    equalize(net, [images().double()], num_images=-1, implementation="module")
    return net(images().double())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_scale_beyond_float16_acts_and_folds(dtype, implementation):
    net = QuietBranch().to(dtype)
    equalize(net, [images().to(dtype)], num_images=-1, implementation=implementation)
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.08}[dtype]  # a float16 near 1.2e-5 has steps of 0.5 %
    for model in (net, fold_equalizers(net)):
        assert {p.dtype for p in model.parameters()} == {dtype}
        torch.testing.assert_close(model(images().to(dtype)).double(), exact(), rtol=0, atol=tolerance)


def test_weights_that_float16_cannot_hold_are_refused_with_the_way_out():
    std = 2e-6  # weights are up to 1 / 4: 1.25e5 is beyond 65504
    with pytest.raises(ValueError, match=r"fusion 'fuse': branch 'branch2' has a std of 2.*e-06.*float32 or bfloat16"):
        equalize(QuietBranch(std).half(), [images().half()], num_images=-1)
    for implementation in ("init", "init_scaled"):
        net = QuietBranch(std).half()
        with pytest.raises(ValueError, match="float16 weights cannot hold"):
            equalize(net, [images().half()], num_images=-1, implementation=implementation)
        assert torch.equal(net.fuse.weight, QuietBranch().half().fuse.weight)
    net = QuietBranch(std).half()
    equalize(net, [images().half()], num_images=-1, implementation="module")
    assert net(images().half()).isfinite().all()
    with pytest.raises(ValueError, match="fusion 'fuse' cannot be folded: branch 'branch2' has a std of"):
        fold_equalizers(net)
    assert fusions_of(net)
    wide = QuietBranch(std).bfloat16()
    equalize(wide, [images().bfloat16()], num_images=-1)
    assert fold_equalizers(wide)(images().bfloat16()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_that_is_converted_keeps_its_statistics(dtype):
    net = QuietBranch()
    equalize(net, [images()], num_images=-1)
    std = net.fuse.equalizers["branch2"].std.clone()
    for model in (net.to(dtype), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert model.fuse.equalizers["branch2"].std.dtype == torch.float32
        assert torch.equal(model.fuse.equalizers["branch2"].std, std)
        torch.testing.assert_close(model(images().to(dtype)).double(), exact(), rtol=0, atol=0.08)
    other = QuietBranch().to(dtype)
    equalize(other, None, conv="fuse", widths=[8, 8])
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(images().to(dtype)), net(images().to(dtype)))
    assert net.double().fuse.equalizers["branch2"].std.dtype == torch.float64


@pytest.mark.parametrize("granularity", ["branch", "channel"])
def test_the_module_is_computed_in_float32(granularity):
    equalizer = ScaleEqualizer(3, granularity=granularity).half()
    shape = equalizer.std.shape
    equalizer.set_statistics(torch.zeros(shape), torch.full(shape, 1e-8), 1)  # 0 in float16
    assert equalizer(torch.zeros(1, 3, 2, 2).half()).isfinite().all()
    x = torch.rand(1, 3, 2, 2).half()
    equalizer.set_statistics(torch.full(shape, 0.5), torch.full(shape, 3e-5), 1)
    expected = ((x.double() - 0.5) / 3e-5).half()
    torch.testing.assert_close(equalizer(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("combine", ["sum", "softmax", "fast_normalized"])
@pytest.mark.parametrize("implementation", ["module", "reparametrize"])
def test_a_sum_in_float16(combine, implementation):
    def made():
        branches = {"loud": Branch(4), "quiet": Branch(4)}
        return equalized(
            Fusion(branches, combine=make_combine(combine, 2)), EqualizerSpec(implementation=implementation)
        )

    inputs = {"loud": images()[:, :4], "quiet": images()[:, 4:8] * TINY}
    fusion, wide = made().half(), made().double()
    calibrate(fusion, [{name: x.half() for name, x in inputs.items()}], num_images=-1)
    calibrate(wide, [{name: x.double() for name, x in inputs.items()}], num_images=-1)
    expected = wide({name: x.double() for name, x in inputs.items()})
    for model in (fusion, fold_equalizers(fusion), fold_equalizers(fusion).half()):
        made_of = model({name: x.half() for name, x in inputs.items()})
        assert made_of.dtype == torch.float16
        torch.testing.assert_close(made_of.double(), expected, rtol=0, atol=0.03)


def test_a_sum_in_float32_is_that_of_its_definition():
    maps, scales = [images(), 2 * images()], torch.tensor([3.0, 0.25])
    affines = [Affine(scale, 0 * scale) for scale in scales]
    assert torch.equal(Sum()(maps, affines), maps[0] * 3.0 + maps[1] * 0.25 + torch.zeros(()))


def test_an_own_fusion_names_the_branch():
    branches = {"loud": Branch(4), "quiet": Branch(4)}
    fusion = equalized(Fusion(branches, combine=Concat(), mix=ConvNormAct(8, 2, norm=None)), EqualizerSpec()).half()
    inputs = {"loud": images()[:, :4].half(), "quiet": (images()[:, 4:8] * 4e-6).half()}
    with pytest.raises(ValueError, match="branch 'quiet' has a std of"):
        calibrate(nn.ModuleDict({"f": fusion})["f"], [inputs], num_images=-1)
    assert not fusion.equalizers["quiet"].calibrated
