"""Combines, and scale equalizers in weighted sums. Oracles: formulas written out, explicit normalisation of maps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from scaleeq.equalization import EqualizerSpec
from scaleeq.fusion import Branch, Fusion, Resize, evaluate_fusions, make_combine
from scaleeq.fusion.combine import COMBINES, Concat, FastNormalizedSum, SoftmaxSum, Sum, WeightedSum, weighted_sum
from scaleeq.ops.resized_conv import ResizedMap
from tests.equalized import equalized

STATISTICS = {"fine": (1.5, 4.0), "middle": (-0.3, 0.25), "coarse": (0.0, 0.9)}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def branches() -> list[torch.Tensor]:
    return [draw(2, 3, 4, 5, seed=seed) for seed in range(3)]


def test_sums_are_their_formulas():
    a, b, c = branches()
    torch.testing.assert_close(Sum()([a, b, c]), a + b + c)
    softmax, fast = SoftmaxSum(3).double(), FastNormalizedSum(3).double()
    assert softmax.logits.tolist() == fast.raw_weights.tolist() == [1, 1, 1]
    with torch.no_grad():
        softmax.logits.copy_(torch.tensor([0.3, -1.0, 2.0]))
        fast.raw_weights.copy_(torch.tensor([0.5, -1.0, 2.0]))
    e = torch.tensor([0.3, -1.0, 2.0]).double().exp()
    torch.testing.assert_close(softmax([a, b, c]), (e[0] * a + e[1] * b + e[2] * c) / e.sum())
    torch.testing.assert_close(fast([a, b, c]), (0.5 * a + 0.0 * b + 2.0 * c) / (2.5 + 1e-4))
    torch.testing.assert_close(Concat()([a, b]), torch.cat([a, b], 1))
    per_channel = [draw(3, 1, 1, seed=9), draw(3, 1, 1, seed=8)]
    expected = a * per_channel[0] + b * per_channel[1] + per_channel[0]
    torch.testing.assert_close(weighted_sum([a, b], per_channel, per_channel[0]), expected)


@pytest.mark.parametrize("name", ["softmax", "fast_normalized"])
def test_a_weighted_sum_keeps_the_precision_of_its_branches(name):
    assert make_combine(name, 2)([torch.ones(1, 1, 2, 2, dtype=torch.bfloat16)] * 2).dtype == torch.bfloat16


def test_refusals():
    with pytest.raises(ValueError, match=f"is 'mean'; choose one of .*{', '.join(COMBINES)}"):
        make_combine("mean")
    with pytest.raises(ValueError, match="learns one weight per branch; there are 0"):
        make_combine("softmax")


def make_net(combine: str, implementation: str, granularity: str = "branch") -> nn.Module:
    """A convolution per branch, one calibrated Fusion of three sizes, a head that a gain and an offset do not pass."""
    torch.manual_seed(0)
    spec = EqualizerSpec(implementation=implementation, granularity=granularity)
    fusion = equalized(
        Fusion(
            {name: Branch(3, lateral=nn.Conv2d(2, 3, 1), transfer=Resize()) for name in STATISTICS},
            combine=make_combine(combine, 3),
            mix=nn.Sequential(nn.SiLU(), nn.Conv2d(3, 2, 3, padding=1)),
        ),
        spec,
    ).double()
    for index, (name, (mean, std)) in enumerate(STATISTICS.items()):
        per_channel = (
            1 + 0.3 * draw(3, seed=index).abs() if granularity == "channel" else torch.ones((), dtype=torch.float64)
        )
        fusion.equalizer_of[name].set_statistics(mean * per_channel, std * per_channel, 8)
    return fusion


def inputs(step: int) -> dict[str, torch.Tensor]:
    sizes = {"fine": (6, 5), "middle": (3, 3), "coarse": (2, 1)}
    return {name: draw(2, 2, *size, seed=10 * step + i) for i, (name, size) in enumerate(sizes.items())}


@pytest.mark.parametrize("granularity", ["branch", "channel"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("combine", ["sum", "softmax", "fast_normalized"])
def test_equalizers_as_coefficients_train_exactly_as_explicit_normalisation(combine, optimizer, granularity):
    explicit = make_net(combine, "module", granularity)
    dynamic = make_net(combine, "reparametrize", granularity)
    optimizers = [optimizer(net.parameters(), lr=0.02) for net in (explicit, dynamic)]
    first = {name: p.clone() for name, p in explicit.named_parameters()}
    for step in range(20):
        outputs = [net(inputs(step)) for net in (explicit, dynamic)]
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
        for y, each in zip(outputs, optimizers, strict=True):
            each.zero_grad()
            (y - 1).square().mean().backward()
            each.step()
        for (name, a), b in zip(explicit.named_parameters(), dynamic.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    assert all((p - first[name]).abs().max() > 1e-5 for name, p in explicit.named_parameters())
    folded = copy.deepcopy(dynamic)
    folded.fold()
    assert isinstance(folded.combine, WeightedSum) and not folded.equalizers
    torch.testing.assert_close(folded(inputs(99)), explicit(inputs(99)), rtol=0, atol=1e-12)


def test_equalized_maps_are_normalised_and_not_merely_scaled():
    """A check of the oracle: with its maps written out, the "module" net is what it claims to be."""
    net = make_net("softmax", "module")
    x = inputs(0)
    total = torch.zeros(2, 3, 6, 5, dtype=torch.float64)
    for weight, (name, (mean, std)) in zip(net.combine.logits.softmax(0), STATISTICS.items(), strict=True):
        branch = Resize()(net.branches[name].lateral(x[name]), total)
        total = total + weight * (branch - mean) / std
    torch.testing.assert_close(net(x), net.mix(total), rtol=0, atol=1e-12)


def with_gradients(net: nn.Module) -> list[torch.Tensor]:
    leaves = {name: x.requires_grad_() for name, x in inputs(0).items()}
    y = net(leaves)
    return [y.detach(), *torch.autograd.grad(y.square().mean(), [*net.parameters(), *leaves.values()])]


def summands(net: Fusion) -> list[bool]:
    """Of each branch, whether it is combined before its resize."""
    return [isinstance(branch.summand(), ResizedMap) for branch in net.branch_maps(inputs(0))]


@pytest.mark.parametrize("granularity", ["branch", "channel"])
@pytest.mark.parametrize("implementation", ["module", "reparametrize", "folded"])
@pytest.mark.parametrize("combine", ["sum", "softmax", "fast_normalized"])
def test_small_branches_are_multiplied_before_their_resize(combine, implementation, granularity):
    net = make_net(combine, "reparametrize" if implementation == "folded" else implementation, granularity)
    if implementation == "folded":
        net.fold()
    plain = copy.deepcopy(net)
    evaluate_fusions(plain, "plain")
    assert summands(net) == [False, True, True] and summands(plain) == [False] * 3
    for ours, theirs in zip(with_gradients(net), with_gradients(plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    seen = []
    net.observer = lambda fusion, observation: seen.append(observation.transferred)
    expected, watched = with_gradients(plain), with_gradients(net)
    net.observer = None
    assert all(torch.equal(a, b) for a, b in zip(watched, with_gradients(net), strict=True))
    assert [tuple(x.shape[-2:]) for x in seen] == [(6, 5)] * 3 and len(expected) == len(watched)


def test_a_plain_sum_and_a_sum_of_one_s_own_stay_as_they_were():
    class Halves(Sum):
        def weights(self):
            return torch.full((3,), 0.5)

    class Own(Sum):
        def forward(self, branches, affines=None):
            return torch.stack(branches).sum(0)

    for combine, expected in ((Sum(), False), (Halves(), True), (Own(), False)):
        net = Fusion({name: Branch(2, transfer=Resize()) for name in STATISTICS}, combine=combine)
        assert any(summands(net)) == expected


@pytest.mark.parametrize("size", ["full", "small"])
def test_an_offset_is_summed_in_float32_in_half_precision(size):
    """1 / 70000 and 70000 are out of the range of float16."""
    first, second = torch.full((1, 1, 2, 2), 1e-3).half(), torch.full((1, 1, 1, 1), 2.0).half()
    other = ResizedMap(second, "bilinear") if size == "small" else second.expand(1, 1, 2, 2)
    scales = [torch.tensor(7e4), torch.tensor(1 / 7e4)]
    total = weighted_sum([first, other], scales, torch.tensor(-69.0))
    assert total.dtype == torch.float16
    torch.testing.assert_close(total.float(), torch.full((1, 1, 2, 2), 1.0), rtol=0, atol=0.05)


def test_what_is_compiled_multiplies_after_the_resize():
    net = make_net("softmax", "reparametrize").eval()
    plain = copy.deepcopy(net)
    evaluate_fusions(plain, "plain")
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(inputs(0)), plain(inputs(0)))
        torch.testing.assert_close(net(inputs(0)), plain(inputs(0)), rtol=0, atol=1e-12)
