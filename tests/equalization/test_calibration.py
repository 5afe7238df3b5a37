"""calibrate, fold_equalizers and their guarantees. Oracle: branches collected by forward hooks, moments by numpy."""

from __future__ import annotations

import copy
import logging
import random

import numpy as np
import pytest
import torch
from torch import nn

from scaleeq import calibrate, fold_equalizers
from scaleeq.decoders.context import pyramid_pooling
from scaleeq.equalization import EqualizerSpec
from scaleeq.equalization.calibration import MAX_IMAGES, MIN_IMAGES, CalibrationReport, require_calibrated
from scaleeq.fusion import Branch, Concat, Fusion, Resize
from scaleeq.layers import ConvNormAct
from tests.equalized import equalized


class TinyNet(nn.Module):
    """Stem -> pyramid pooling of a coarse map -> concatenation with the fine map: the second Fusion sees the first."""

    def __init__(self, *, dropout=0.5, **spec):
        super().__init__()
        torch.manual_seed(0)
        equalizer = EqualizerSpec(**spec)
        self.stem = ConvNormAct(3, 6, kernel_size=3)
        self.dropout = nn.Dropout(dropout)
        self.context = equalized(pyramid_pooling(6, 4, pool_scales=(1, 2)), equalizer)
        branches = {"fine": Branch(6), "context": Branch(4, transfer=Resize())}
        self.last = equalized(Fusion(branches, combine=Concat(), mix=ConvNormAct(10, 4, kernel_size=3)), equalizer)
        self.after = nn.Conv2d(4, 2, 1)
        self.calls = 0

    def forward(self, x):
        fine = self.dropout(self.stem(x))
        mixed = self.last({"fine": fine, "context": self.context(nn.functional.avg_pool2d(fine, 3))})
        self.calls += 1
        return self.after(mixed)


def make_loader(count=8, batch=4, seed=3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, 12, 15, generator=generator) for _ in range(count)]


def observed(model: TinyNet, loader) -> dict[tuple[str, str], np.ndarray]:
    """(fusion, branch) -> all values (C, n) after the transfer, in calibration's mode, by torch forward hooks."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
    values: dict[tuple[str, str], list[np.ndarray]] = {}
    for name in ("context", "last"):
        for branch, module in getattr(model, name).branches.items():

            def keep(module, args, out, key=(name, branch)):
                values.setdefault(key, []).append(out.detach().double().transpose(0, 1).flatten(1).numpy())

            module.transfer.register_forward_hook(keep)
    with torch.no_grad():
        for x in loader:
            model(x)
    return {key: np.concatenate(parts, 1) for key, parts in values.items()}


@pytest.mark.parametrize("granularity", ["branch", "channel"])
def test_statistics_are_those_of_the_branches_after_the_transfer(granularity):
    model, loader = TinyNet(implementation="module", granularity=granularity), make_loader()
    report = calibrate(model, loader, num_images=-1)
    for (name, branch), values in observed(model, loader).items():
        equalizer = getattr(model, name).equalizer_of[branch]
        axis = 1 if granularity == "channel" else None
        np.testing.assert_allclose(equalizer.mean.flatten(), np.atleast_1d(values.mean(axis)), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(equalizer.std.flatten(), np.atleast_1d(values.std(axis)), rtol=1e-5)
        assert report.fusions[name][branch].std == pytest.approx(values.std(), rel=1e-6)
        assert int(equalizer.num_images) == 32


def test_later_fusions_are_measured_with_the_earlier_ones_equalized():
    model, loader = TinyNet(), make_loader()
    report = calibrate(model, loader, num_images=-1)
    assert list(report.fusions) == ["context", "last"]
    assert model.calls == 0  # every forward ended at the fusion that was measured
    unequalized = copy.deepcopy(model)
    for fusion in (unequalized.context, unequalized.last):
        for equalizer in fusion.equalizer_of.values():
            equalizer.reset()
    alone = observed(unequalized, loader)[("last", "context")].std()
    assert report.fusions["last"]["context"].std != pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("spec", [{"statistic": "rms"}, {"statistics_of": "source"}])
def test_ablations_measure_what_they_say(spec):
    model, loader = TinyNet(implementation="module", **spec), make_loader()
    calibrate(model, loader, num_images=-1)
    equalizer = model.last.equalizer_of["context"]
    values = observed(model, loader)[("last", "context")]
    if "statistic" in spec:
        assert float(equalizer.mean) == 0
        assert float(equalizer.std) == pytest.approx(np.sqrt((values**2).mean()), rel=1e-5)
    else:
        assert float(equalizer.std) > 1.02 * values.std()  # upsampling lowered it


def test_parameters_buffers_modes_and_random_states_are_bit_identical_afterwards():
    model = TinyNet()
    model.dropout.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    states = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())

    def noisy_loader():
        for x in make_loader():
            random.random(), np.random.rand(), torch.rand(1)
            yield x

    class Loader:
        def __iter__(self):
            return noisy_loader()

    calibrate(model, Loader())
    after = model.state_dict()
    assert list(after) == list(before)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all(".equalizers." in key for key in changed)
    assert [module.training for module in model.modules()] == modes
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(fusion.observer is None for fusion in (model.context, model.last))


def test_dropout_is_off_and_batch_norms_use_the_batch():
    """Statistics do not depend on the dropout rate, nor on the running statistics."""
    one, other = TinyNet(dropout=0.0), TinyNet(dropout=0.9)
    other.stem.norm.running_mean.fill_(7)
    reports = [calibrate(model, make_loader()) for model in (one, other)]
    assert reports[0] == reports[1]


def test_autocast_is_off():
    exact = calibrate(TinyNet(), make_loader())
    with torch.autocast("cpu", torch.bfloat16):
        assert calibrate(TinyNet(), make_loader()) == exact


def test_statistics_are_exact_in_float64():
    model = NoNorm().double()
    x = make_loader(2, seed=5)[0].double() + 0.1
    calibrate(model, [x], num_images=-1)
    assert float(model.fusion.equalizer_of["a"].mean) == pytest.approx(float(x.mean()), rel=1e-13)
    assert float(model.fusion.equalizer_of["a"].std) == pytest.approx(float(x.std(correction=0)), rel=1e-13)


def test_frozen_batch_norms_stay_frozen():
    class Frozen(TinyNet):
        def train(self, mode=True):
            super().train(mode)
            self.stem.norm.eval()
            return self

    reports = []
    for mean in (0.0, 1.0):
        model = Frozen()
        model.stem.norm.running_mean.fill_(mean)
        reports.append(calibrate(model, make_loader()))
    assert reports[0] != reports[1]


def test_measuring_again_gives_the_same_bits():
    model = TinyNet()
    first = calibrate(model, make_loader())
    assert calibrate(model, make_loader()) == first


class Counting:
    """An endless loader that counts its images; `scale` makes batches differ in scale."""

    def __init__(self, scatter=0.0):
        self.scatter, self.images = scatter, 0

    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        while True:
            scale = torch.exp(self.scatter * torch.randn(1, generator=generator))
            self.images += 8
            yield scale * torch.randn(8, 3, 48, 60, generator=generator)


class NoNorm(nn.Module):
    """One Fusion that sees its input as it is."""

    def __init__(self):
        super().__init__()
        branches = {"a": Branch(3), "b": Branch(3, lateral=nn.AvgPool2d(3), transfer=Resize())}
        self.fusion = equalized(Fusion(branches, combine=Concat(), mix=ConvNormAct(6, 2)), EqualizerSpec())

    def forward(self, x):
        return self.fusion(x)


@pytest.mark.parametrize(
    ("scatter", "num_images", "expected"), [(0.0, 0, MIN_IMAGES), (1.0, 0, MAX_IMAGES), (1.0, 40, 40), (0.0, 50, 56)]
)
def test_stop_rule(scatter, num_images, expected):
    loader = Counting(scatter)
    report = calibrate(NoNorm(), loader, num_images=num_images)
    assert loader.images == expected
    assert {branch.num_images for branch in report.fusions["fusion"].values()} == {expected}
    if expected == MIN_IMAGES:
        assert max(b.relative_standard_error for b in report.fusions["fusion"].values()) <= 0.01


def test_stop_rule_waits_until_the_standard_error_is_one_percent():
    loader = Counting(0.06)
    report = calibrate(NoNorm(), loader)
    assert MIN_IMAGES < loader.images < MAX_IMAGES
    assert max(b.relative_standard_error for b in report.fusions["fusion"].values()) <= 0.01


def test_padding_is_excluded():
    x = torch.randn(4, 3, 12, 15)
    x[:, :, 6:] = 100
    valid = torch.tensor([[0.5, 1.0]]).repeat(4, 1)
    model = NoNorm()
    calibrate(model, [x] * 2, num_images=-1, inputs=lambda batch: (batch, valid))
    equalizer = model.fusion.equalizer_of["a"]
    assert float(equalizer.mean) == pytest.approx(float(x[:, :, :6].mean()), abs=1e-6)
    assert float(equalizer.std) == pytest.approx(float(x[:, :, :6].std(correction=0)), rel=1e-6)


def test_errors_name_the_fusion_and_leave_the_equalizers_as_they_were():
    model = TinyNet()
    calibrate(model, make_loader())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="gave no batch"):
        calibrate(model, [])
    with pytest.raises(ValueError, match="branch 'input' of fusion 'context' is not finite"):
        calibrate(model, [torch.full((2, 3, 12, 15), float("nan"))])
    with pytest.raises(ValueError, match="num_images is -2"):
        calibrate(model, make_loader(), num_images=-2)
    with pytest.raises(ValueError, match="no scale equalizers"):
        calibrate(nn.Conv2d(1, 1, 1), make_loader())
    unused = nn.ModuleDict({"net": NoNorm(), "spare": NoNorm()})
    unused.forward = unused["net"].forward
    with pytest.raises(ValueError, match=r"does not run the fusions spare\.fusion"):
        calibrate(unused, make_loader())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_a_constant_branch_is_not_scaled_and_says_so(caplog):
    class Dead(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    model = NoNorm()
    model.fusion.branches["b"].lateral = Dead()
    with caplog.at_level(logging.WARNING):
        calibrate(model, make_loader())
    assert "fusion fusion, branch b: it is constant" in caplog.text
    assert float(model.fusion.equalizer_of["b"].std) == 1
    assert torch.isfinite(model(make_loader()[0])).all()


def test_a_data_set_of_one_image_is_measured_and_says_that_its_error_is_unknown():
    model, x = NoNorm().double(), make_loader(1)[0][:1].double()
    report = calibrate(model, [x])
    statistics = report.fusions["fusion"]["a"]
    assert (statistics.num_images, statistics.relative_standard_error) == (1, float("inf"))
    assert float(model.fusion.equalizer_of["a"].std) == pytest.approx(float(x.std(correction=0)), rel=1e-12)


def test_uncalibrated_models_are_refused_by_name():
    model = TinyNet()
    for action in (require_calibrated, fold_equalizers):
        with pytest.raises(RuntimeError, match=r"context, last are not calibrated.*MODEL\.WEIGHTS"):
            action(model)
    calibrate(model, make_loader())
    require_calibrated(model)


@pytest.mark.parametrize("granularity", ["branch", "channel"])
@pytest.mark.parametrize("implementation", ["module", "reparametrize"])
def test_folded_model_has_equal_outputs_everywhere_and_no_equalizer_keys(implementation, granularity):
    model = TinyNet(implementation=implementation, granularity=granularity).double()
    calibrate(model, [x.double() for x in make_loader()])
    folded = fold_equalizers(model)
    model.eval(), folded.eval()
    x = make_loader(1)[0].double()
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=1e-12)
    assert not [key for key in folded.state_dict() if "equalizer" in key]
    assert [key for key in model.state_dict() if "equalizer" in key]
    reloaded = fold_equalizers(model)
    reloaded.load_state_dict(folded.state_dict())
    torch.testing.assert_close(reloaded.eval()(x), folded(x))


def test_a_calibrated_state_dict_makes_a_calibrated_model():
    model = TinyNet()
    calibrate(model, make_loader())
    other = TinyNet()
    other.load_state_dict(model.state_dict())
    require_calibrated(other)
    x = make_loader(1)[0]
    assert torch.equal(other.eval()(x), model.eval()(x))
    require_calibrated(copy.deepcopy(other))


def test_report_is_plain_json():
    report = calibrate(TinyNet(), make_loader())
    content = report.to_dict()
    assert content["last"]["branches"]["fine"]["num_images"] == 32
    stds = [branch["std"] for branch in content["last"]["branches"].values()]
    assert content["last"]["spread"] == pytest.approx(max(stds) / min(stds))
    assert isinstance(report, CalibrationReport)
