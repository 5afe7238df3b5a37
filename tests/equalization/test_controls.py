"""The controls of experiments. Oracles: their definitions written out; optimizers with one parameter per branch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scaleeq import calibrate, fold_equalizers
from scaleeq.equalization import EqualizerSpec, scale_optimizer_steps
from scaleeq.equalization.gradients import branch_rms
from scaleeq.equalization.spec import CONTROLS
from scaleeq.fusion import Branch, Fusion, Resize, make_combine
from scaleeq.layers import ConvNormAct, batch_norm
from tests.equalized import equalized

WIDTHS = {"fine": 2, "middle": 4, "coarse": 6}
SIZES = {"fine": (8, 12), "middle": (4, 6), "coarse": (2, 3)}
FACTORS = {"fine": 1.0, "middle": 0.5, "coarse": 4.0}


def make_fusion(*, combine="concat", bias=False, **spec) -> Fusion:
    torch.manual_seed(0)
    branches = {
        name: Branch(width, transfer=None if name == "fine" else Resize("bilinear")) for name, width in WIDTHS.items()
    }
    mix = ConvNormAct(12, 5, kernel_size=3, norm=None if bias else batch_norm)
    equalizer = EqualizerSpec(**spec) if spec else None
    return equalized(Fusion(branches, combine=make_combine(combine, 3), mix=mix), equalizer).double()


def make_batches(count=4) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    return [
        {n: FACTORS[n] * torch.rand(2, c, *SIZES[n], dtype=torch.float64) for n, c in WIDTHS.items()}
        for _ in range(count)
    ]


def upsampled(batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return [F.interpolate(batch[n], size=SIZES["fine"], mode="bilinear") if n != "fine" else batch[n] for n in WIDTHS]


def calibrated(**spec) -> Fusion:
    fusion = make_fusion(**spec)
    calibrate(fusion, make_batches(), num_images=-1, progress=lambda line: None)
    return fusion


def statistics(fusion: Fusion) -> tuple[torch.Tensor, torch.Tensor]:
    equalizers = fusion.equalizer_of.values()
    return torch.stack([e.mean for e in equalizers]), torch.stack([e.std for e in equalizers])


MEANS, STDS = statistics(calibrated(implementation="module"))
CHANNELS = torch.tensor(list(WIDTHS.values()), dtype=torch.float64)


def test_the_branches_of_these_tests_differ_in_scale():
    assert STDS.max() / STDS.min() > 4


def test_common_divides_every_branch_by_one_std_and_a_batch_norm_undoes_it():
    fusion, plain = calibrated(implementation="reparametrize", control="common"), make_fusion()
    means, stds = statistics(fusion)
    expected = ((CHANNELS * STDS**2).sum() / CHANNELS.sum()).sqrt()
    torch.testing.assert_close(stds, expected.expand(3))
    assert not means.any()
    for norm in (fusion.mix.norm, plain.mix.norm):
        norm.eps = 1e-14
    batch = make_batches(1)[0]
    torch.testing.assert_close(fusion(batch), plain(batch), rtol=0, atol=1e-9)


def test_permuted_divides_by_the_next_branchs_std_and_keeps_the_mean():
    means, stds = statistics(calibrated(implementation="reparametrize", control="permuted"))
    torch.testing.assert_close(stds, STDS[[1, 2, 0]])
    torch.testing.assert_close(means, MEANS)


def test_balanced_gives_every_branch_the_same_energy():
    means, stds = statistics(calibrated(implementation="reparametrize", control="balanced"))
    energy = CHANNELS * (STDS / stds) ** 2
    torch.testing.assert_close(energy, CHANNELS.mean().expand(3))
    torch.testing.assert_close(means, MEANS)


@pytest.mark.parametrize(("norm", "expected"), [(None, (1e-5, 0.1)), ((1e-3, 0.01), (1e-3, 0.01))])
def test_batch_norm_takes_eps_and_momentum_of_its_fusions_batch_norm(norm, expected):
    """ESeg's have TensorFlow's; a fusion without batch norms has torch's."""
    plain = make_fusion(bias=norm is None)
    if norm:
        plain.mix.norm.eps, plain.mix.norm.momentum = norm
    fusion = equalized(plain, EqualizerSpec(implementation="module", control="batch_norm"))
    assert {(each.norm.eps, each.norm.momentum) for each in fusion.equalizer_of.values()} == {expected}


def test_batch_norm_is_a_batch_norm_without_affine_and_folds_at_test_time():
    fusion, batch = calibrated(implementation="module", control="batch_norm"), make_batches(1)[0]
    equalizer = fusion.equalizer_of["coarse"]
    x = batch["coarse"]
    torch.testing.assert_close(equalizer(x), F.batch_norm(x, None, None, training=True), rtol=0, atol=1e-12)
    assert not list(equalizer.parameters()), "what it learned would be lost in the fold"
    fusion.eval()
    expected = fusion(batch)
    torch.testing.assert_close(fold_equalizers(fusion)(batch), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("control", "start"), [("learnable", torch.ones(3).double()), ("learnable_from_std", 1 / STDS)]
)
def test_learnable_factors_begin_where_they_should_train_and_fold(control, start):
    fusion, batch = calibrated(implementation="module", control=control), make_batches(1)[0]
    factors = [equalizer.factor for equalizer in fusion.equalizer_of.values()]
    torch.testing.assert_close(torch.stack([factor.detach() for factor in factors]), start)
    fusion(batch).square().mean().backward()
    assert all(factor.grad is not None and factor.grad != 0 for factor in factors)
    torch.optim.SGD(fusion.parameters(), lr=0.1).step()
    fusion.eval()
    expected = fusion.mix(torch.cat([f * x for f, x in zip(factors, upsampled(batch), strict=True)], dim=1))
    torch.testing.assert_close(fusion(batch), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(fold_equalizers(fusion)(batch), expected, rtol=0, atol=1e-12)


def test_a_failed_calibration_gives_learned_factors_back():
    fusion = calibrated(implementation="module", control="learnable_from_std")
    with torch.no_grad():
        fusion.equalizer_of["fine"].factor.fill_(7)
    before = copy.deepcopy(fusion.state_dict())
    broken = make_batches()
    broken[2]["coarse"][0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        calibrate(fusion, broken, num_images=-1, progress=lambda line: None)
    torch.testing.assert_close(fusion.state_dict(), before, rtol=0, atol=0)


def test_noise_is_one_factor_a_batch_as_large_as_the_stds_differ_and_none_at_test_time():
    equalizer = calibrated(implementation="module", control="noise").equalizer_of["fine"]
    torch.testing.assert_close(equalizer.std.log(), STDS.log().std(correction=0))
    x = torch.ones(2, 2, 3, 3, dtype=torch.float64)
    drawn = torch.stack([equalizer(x) for _ in range(2000)])
    assert (drawn == drawn[:, :1, :1, :1, :1]).all()  # the same for a whole batch
    logs = drawn[:, 0, 0, 0, 0].log()
    assert abs(float(logs.std()) / float(equalizer.std.log()) - 1) < 0.1
    assert torch.equal(equalizer.eval()(x), x)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda groups: torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1),
    ],
)
def test_learning_rate_is_an_optimizer_with_a_rate_per_branch(make_optimizer):
    fusion = calibrated(implementation="module", control="learning_rate", bias=True)
    conv = fusion.mix.consumer
    parts = [nn.Parameter(part.clone()) for part in conv.weight.detach().split(list(WIDTHS.values()), dim=1)]
    bias = nn.Parameter(conv.bias.detach().clone())
    optimizer = make_optimizer([{"params": list(fusion.parameters())}])
    scale_optimizer_steps(fusion, optimizer)
    probe = make_optimizer([{"params": [bias]}])
    rate = probe.param_groups[0]["lr"]
    oracle = make_optimizer(
        [{"params": [bias]}]
        + [{"params": [part], "lr": rate / float(std) ** 2} for part, std in zip(parts, STDS, strict=True)]
    )

    def update(output: torch.Tensor, steps: torch.optim.Optimizer) -> None:
        steps.zero_grad()
        output.square().mean().backward()
        steps.step()

    for batch in make_batches(3):
        update(fusion(batch), optimizer)
        update(F.relu(F.conv2d(torch.cat(upsampled(batch), 1), torch.cat(parts, 1), bias, padding=1)), oracle)
    torch.testing.assert_close(conv.weight, torch.cat(parts, dim=1), rtol=0, atol=1e-10)
    torch.testing.assert_close(conv.bias, bias, rtol=0, atol=1e-10)


def test_grad_makes_the_first_gradients_of_all_branches_one_size():
    def loss(fusion):
        return lambda batch: (fusion(batch) - 0.3).square().mean()

    def gradients(fusion):
        rms = 0.0
        for batch in make_batches(8):
            (gradient,) = torch.autograd.grad(loss(fusion)(batch), [fusion.mix.consumer.weight])
            rms = rms + branch_rms(fusion, gradient).square()
        return rms.sqrt()

    before = gradients(calibrated(implementation="reparametrize"))
    fusion = make_fusion(implementation="reparametrize", statistic="grad")
    state = copy.deepcopy(fusion.mix.state_dict())
    calibrate(fusion, make_batches(8), num_images=-1, progress=lambda line: None, loss=loss(fusion))
    torch.testing.assert_close(fusion.mix.state_dict(), state, rtol=0, atol=0)
    after = gradients(fusion)
    assert after.max() / after.min() < 1.02 < 1.1 < before.max() / before.min()
    # Gradients as small as those behind many layers, whose squares float32 has not.
    tiny = make_fusion(implementation="reparametrize", statistic="grad")
    calibrate(
        tiny, make_batches(8), num_images=-1, progress=lambda line: None, loss=lambda batch: 1e-25 * loss(tiny)(batch)
    )
    for name, equalizer in fusion.equalizer_of.items():
        torch.testing.assert_close(tiny.equalizer_of[name].std, equalizer.std, rtol=1e-3, atol=0)
    with pytest.raises(ValueError, match="not losses by name"):
        calibrate(fusion, make_batches(8), num_images=-1, progress=lambda line: None)


def test_the_gradient_of_a_branch_is_that_of_its_slice():
    fusion = make_fusion()
    gradient = torch.randn_like(fusion.mix.consumer.weight)
    expected = [part.square().mean().sqrt() for part in gradient.split(list(WIDTHS.values()), dim=1)]
    torch.testing.assert_close(branch_rms(fusion, gradient), torch.stack(expected))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"control": "typo"}, "CONTROL is 'typo'; choose one of '', common"),
        ({"control": "common", "granularity": "channel"}, "needs MODEL.SCALE_EQUALIZER.GRANULARITY 'branch'"),
        ({"control": "noise"}, "needs MODEL.SCALE_EQUALIZER.IMPLEMENTATION 'module', not 'reparametrize'"),
        ({"statistic": "grad", "implementation": "init"}, "needs MODEL.SCALE_EQUALIZER.IMPLEMENTATION 'module' or"),
        ({"statistic": "grad", "control": "common"}, "needs MODEL.SCALE_EQUALIZER.CONTROL ''"),
    ],
)
def test_what_means_nothing_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EqualizerSpec(**arguments)


@pytest.mark.parametrize("spec", [{"control": "learning_rate", "implementation": "module"}, {"statistic": "grad"}])
def test_a_sum_has_no_weights_per_branch(spec):
    branches = {name: Branch(4) for name in ("a", "b")}
    with pytest.raises(ValueError, match="has no weights per branch"):
        equalized(Fusion(branches, combine=make_combine("sum", 2)), EqualizerSpec(**spec))


def test_every_control_is_explained():
    import scaleeq.equalization.controls as controls

    assert all(f'"{control}"' in controls.__doc__ for control in CONTROLS if control)
