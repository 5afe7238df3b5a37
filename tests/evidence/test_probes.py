"""Fusions side by side are the ones that are written out; features at a pixel are those of the upsampled map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evidence.probes import training
from evidence.probes.arms import ARMS, Statistics, common_std
from evidence.probes.features import NUM_CLASSES, Features, Pixels
from evidence.probes.side_by_side import DESIGNS, Fusions, Probe
from evidence.probes.upernet_like import make_fusions
from evidence.probes.written_out import UNKNOWN, losses_alone

SIZES = {"res2": (12, 16, 3), "res3": (6, 8, 5), "res5": (2, 2, 8)}
IMAGES = range(6)


@pytest.fixture
def folder(tmp_path):
    """Features of six images: of stds 2, 1 and 0.1, with means, and labels that they tell a little of."""
    random = np.random.default_rng(0)
    labels = random.integers(0, NUM_CLASSES + 1, (6, 12, 16)).astype(np.uint8)
    np.save(tmp_path / "labels.train.npy", labels)
    for index, (name, size) in enumerate(SIZES.items()):
        std = (2.0, 1.0, 0.1)[index]
        level = std * (random.standard_normal((6, *size)) + random.standard_normal(size[-1]))
        if name == "res2":
            level = level + labels[..., None] * 0.3
        np.save(tmp_path / f"net.train.{index}_{name}.npy", level.astype(np.float16))
    return tmp_path


def options(folder, taps=1):
    features = Features(folder, "train", ["net"], taps=taps)
    return {"features": features, "images": IMAGES, "statistics": Statistics.measured(features, IMAGES)}


def test_features_at_a_pixel_are_those_of_the_upsampled_map(folder):
    features = Features(folder, "train", ["net"])
    image, row, column = (each.flatten() for each in torch.meshgrid(*map(torch.arange, (6, 12, 16)), indexing="ij"))
    pixels = Pixels(image, row, column)
    upsampled = [
        F.interpolate(level.permute(0, 3, 1, 2).float(), (12, 16), mode="bilinear")
        for level in features.levels.values()
    ]
    expected = torch.cat(upsampled, 1).permute(0, 2, 3, 1).reshape(-1, 16)
    assert torch.allclose(features.rows(pixels), expected, atol=1e-5)
    features.taps = 9
    nine = features.rows(pixels)
    assert torch.equal(nine[:, 4 * 16 : 5 * 16], features._interpolated(pixels))  # the pixel itself
    above = expected.view(6, 12, 16, 16)[:, torch.tensor([0, *range(11)])].reshape(-1, 16)
    assert torch.allclose(nine[:, 16:32], above, atol=1e-5)


def test_statistics_are_those_of_the_pixels(folder):
    features = Features(folder, "train", ["net"])
    rows = torch.randn(500, 16) * torch.arange(1, 17) + 3
    found = Statistics.of(rows, features.widths)
    for index, part in enumerate(rows.split(features.widths, 1)):
        assert float(found.mean[index]) == pytest.approx(float(part.mean()), rel=1e-5)
        assert float(found.std[index]) == pytest.approx(float(part.std(correction=0)), rel=1e-5)
    assert float(common_std(found.std, found.widths)) == pytest.approx(
        float(torch.cat([(p - p.mean()).flatten() for p in rows.split(features.widths, 1)]).square().mean().sqrt()),
        rel=1e-5,
    )
    assert float(found.energy_shares().sum()) == pytest.approx(1)


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
@pytest.mark.parametrize("design", ["linear", "hidden", "no_norm", "sum", "upernet"])
def test_side_by_side_is_one_by_one(folder, design, optimizer):
    """Of every arm, with a dose: the losses of each step, to rounding that training amplifies."""
    arms = [arm for arm in ARMS if arm not in UNKNOWN.get(design, ())]
    probes = [Probe(arm, 0.02, dose=dose) for arm in arms for dose in (1.0, 10.0)]
    given, steps = options(folder), 10
    fusions = make_fusions(DESIGNS[design], probes, given["statistics"], 3)
    rates = torch.tensor([probe.rate for probe in probes])
    solver = training.Optimizer(fusions.parameters, optimizer, rates)
    batches, mine = training.Batches(given["features"], IMAGES, 3), []
    for step in range(steps):
        rows, targets = batches.next()
        loss = training.losses_of(fusions.forward(rows, training=True), targets)
        found = torch.autograd.grad(loss.sum(), list(fusions.parameters.values()), allow_unused=True)
        gradients = {name: g for name, g in zip(fusions.parameters, found, strict=True) if g is not None}
        solver.step(gradients, (1 - step / steps) ** training.POWER)
        mine.append(loss.detach())
    for index, probe in enumerate(probes):
        alone = losses_alone(DESIGNS[design], probe, optimizer=optimizer, steps=steps, seed=3, **given)
        assert torch.stack(mine)[:, index].tolist() == pytest.approx(alone, rel=2e-3), probe


def test_a_classifier_learns_and_miou_is_that_of_a_confusion(folder):
    given = options(folder)
    sample = training.Sample.of(given["features"], IMAGES, 40)
    probes = [Probe("equalized", 0.1), Probe("off", 0.0)]
    trained = training.train(DESIGNS["linear"], probes, optimizer="SGD", steps=80, seed=0, sample=sample, **given)
    assert float(trained.miou[0]) > 2 * float(trained.miou[1])
    assert float(trained.loss[0]) < float(trained.first_loss[0])
    confusion = torch.tensor([[[2, 1], [0, 1]], [[4, 0], [0, 0]]])
    assert training.mean_iou(confusion).tolist() == pytest.approx([(2 / 3 + 1 / 2) / 2, 1.0])


@pytest.mark.parametrize("arm", ["equalized", "batch_norm", "channel", "common", "permuted"])
def test_equalizers_do_not_see_a_common_factor_or_a_dose(folder, arm):
    """What is invariant by construction: a dose for those that normalise each branch; a common factor for all."""
    given = options(folder, taps=9)
    batch, _ = training.Batches(given["features"], IMAGES, 0).next()
    fusions = Fusions(DESIGNS["conv3x3"], [Probe(arm, 1.0), Probe(arm, 1.0, dose=100.0)], given["statistics"], 0)
    one, other = fusions.forward(batch, training=True).unbind(1)
    assert torch.allclose(one, other, atol=0.02) == (arm not in ("common", "permuted"))
