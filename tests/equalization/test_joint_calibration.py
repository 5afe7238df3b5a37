"""Calibration of many fusions in one pass. Oracle: one pass per fusion, in the order in which they run."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from scaleeq import calibrate
from scaleeq.decoders.bifpn import BiFPN
from scaleeq.equalization import EqualizerSpec, calibration
from scaleeq.equalization.calibration import MAX_PASSES, fusions_of
from scaleeq.fusion import Branch, Concat, Fusion, Resize
from scaleeq.layers import ConvNormAct, batch_norm
from tests.equalized import equalized

CHANNELS = {"p3": 4, "p4": 6, "p5": 4}


class Pyramid(nn.Module):
    """A backbone of three levels whose scales differ widely, and three cells of a BiFPN: 12 fusions in a row."""

    def __init__(self, *, norm=None, **spec):
        super().__init__()
        torch.manual_seed(0)
        widths = [3, *CHANNELS.values()]
        self.stages = nn.ModuleList(
            ConvNormAct(a, b, kernel_size=3, norm=None, activation=False) for a, b in itertools.pairwise(widths)
        )
        self.bifpn = equalized(BiFPN(CHANNELS, 4, repeats=3, norm=norm), EqualizerSpec(**spec))
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        features = {}
        for level, stage in zip(CHANNELS, self.stages, strict=True):
            x = stage(x)
            features[level] = 5 * x + 2
            x = nn.functional.avg_pool2d(x, 2, ceil_mode=True)
        return self.bifpn(features)


def make_loader(count=40) -> list[torch.Tensor]:
    """Images that differ: each has a contrast of its own."""
    generator = torch.Generator().manual_seed(3)
    contrasts = 0.5 + torch.rand(count, 4, 1, 1, 1, generator=generator)
    return list(contrasts * torch.randn(count, 4, 3, 20, 26, generator=generator))


@pytest.mark.parametrize(
    ("norm", "implementation", "granularity", "count", "tolerance"),
    [
        (batch_norm, "reparametrize", "branch", 10, 0.01),
        (None, "reparametrize", "branch", 40, 0.04),
        (None, "module", "channel", 40, 0.08),
    ],
)
def test_one_joint_pass_finds_what_a_pass_per_fusion_finds(
    monkeypatch, caplog, norm, implementation, granularity, count, tolerance
):
    """Batch norms keep errors from growing along the chain; without them it takes more images."""
    spec = {"norm": norm, "implementation": implementation, "granularity": granularity}
    joint, topological = Pyramid(**spec), Pyramid(**spec)
    with caplog.at_level("INFO"):
        report = calibrate(joint, make_loader(count), num_images=-1)
    assert joint.forwards == count and report.joint
    assert "measuring 12 fusions jointly, in one pass" in caplog.text
    monkeypatch.setattr(calibration, "MAX_PASSES", 12)
    exact = calibrate(topological, make_loader(count), num_images=-1)
    assert topological.forwards == 12 * count and not exact.joint
    assert list(report.fusions) == list(exact.fusions)
    assert all(entry["joint"] for entry in report.to_dict().values())
    assert not any("joint" in entry for entry in exact.to_dict().values())
    theirs = fusions_of(topological)
    for name, fusion in fusions_of(joint).items():
        for branch, equalizer in fusion.equalizer_of.items():
            expected = theirs[name].equalizer_of[branch]
            assert int(equalizer.num_images) == 4 * count
            torch.testing.assert_close(equalizer.std, expected.std, rtol=tolerance, atol=0)
            assert ((equalizer.mean - expected.mean).abs() <= tolerance * expected.std).all()


def test_concatenations_whose_branches_are_centred_already_are_measured_as_they_are(monkeypatch):
    """There a mean that is known is subtracted before the transfer, so the observer sees what is left."""

    def make_chain() -> nn.Sequential:
        torch.manual_seed(0)
        fusions = []
        for _ in range(MAX_PASSES + 1):
            branches = {
                "fine": Branch(3),
                "coarse": Branch(3, lateral=nn.AvgPool2d(2), transfer=Resize()),
            }
            mix = ConvNormAct(6, 3, kernel_size=3)
            fusions.append(equalized(Fusion(branches, combine=Concat(), mix=mix), EqualizerSpec()))
        return nn.Sequential(*fusions)

    joint, topological = make_chain(), make_chain()
    assert calibrate(joint, make_loader(10), num_images=-1).joint
    monkeypatch.setattr(calibration, "MAX_PASSES", 9)
    calibrate(topological, make_loader(10), num_images=-1)
    for ours, theirs in zip(joint, topological, strict=True):
        for branch, expected in theirs.equalizer_of.items():
            equalizer = ours.equalizer_of[branch]
            assert equalizer.std == pytest.approx(float(expected.std), rel=0.02)
            assert equalizer.mean == pytest.approx(float(expected.mean), abs=0.02 * float(expected.std))
    assert float(joint[1].equalizer_of["coarse"].mean) > 0.3  # behind a ReLU


def test_the_earlier_equalizers_matter_much_more_than_the_tolerance():
    model = Pyramid()
    measured = calibrate(model, make_loader(), num_images=-1).fusions
    plain = Pyramid()
    without = {}
    for name, fusion in fusions_of(plain).items():
        fusion.observer = lambda _, seen, name=name: without.setdefault((name, seen.branch), seen.transferred.std())
    plain(torch.cat(make_loader()))
    ratios = [
        float(without[name, branch]) / of.std for name, of_all in measured.items() for branch, of in of_all.items()
    ]
    assert max(ratios) > 5


def test_few_fusions_or_initializers_are_measured_one_after_another():
    assert len(fusions_of(Pyramid())) == 12 > MAX_PASSES
    few = Pyramid()
    few.bifpn.cells = few.bifpn.cells[:2]
    assert not calibrate(few, make_loader(), num_images=-1).joint


def test_a_fusion_that_does_not_run_and_a_branch_that_is_not_finite_are_named():
    model = Pyramid()
    model.bifpn.cells[1].forward = lambda maps: maps
    with pytest.raises(ValueError, match=r"does not run the fusions bifpn\.cells\.1\.top_down\.p4, "):
        calibrate(model, make_loader(2), num_images=-1)
    model = Pyramid()
    with torch.no_grad():
        model.bifpn.cells[0].top_down["p3"].mix.pointwise.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"'bottom_up' of fusion 'bifpn\.cells\.0\.bottom_up\.p4' is not finite"):
        calibrate(model, make_loader(2), num_images=-1)
    assert not any(e.calibrated for f in fusions_of(model).values() for e in f.equalizer_of.values())
