"""Hard pixels. Oracles: the definitions in numpy, over sorted lists; closed forms."""

from __future__ import annotations

import pytest
import torch

from scaleeq.tasks.losses.ohem import _hardest, annealed_share, threshold_labels, top_k_labels
from scaleeq.tasks.losses.pixels import cross_entropy
from tests.tasks.losses.reference import hardest_share, improbable, labelled_pixels, make_case, mean_loss

WEIGHTS = [0.5, 2.0, 0.125, 1.0, 3.0]  # exact in float32


def kept(labels: torch.Tensor) -> int:
    return int((labels != 255).sum())


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("share", [0.02, 0.25, 0.5, 1.0])
def test_top_k_keeps_the_hardest_share_of_the_labelled_pixels(share, weights):
    logits, labels = make_case()
    tensor = None if weights is None else torch.tensor(weights)
    hard = top_k_labels(logits, labels, share=torch.tensor(share), class_weights=tensor)
    expected = hardest_share(labelled_pixels(logits, labels), share, weights or [1] * 5)
    assert kept(hard) == len(expected)
    loss = cross_entropy(logits, hard, class_weights=tensor).item()
    assert loss == pytest.approx(mean_loss(expected, weights=weights), rel=1e-12)
    assert bool(((hard == labels) | (hard == 255)).all())
    assert (share == 1) == torch.equal(hard, labels)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("min_kept", [1, 10, 30, 40, 1000])
def test_threshold_keeps_the_improbable_pixels_and_at_least_min_kept_an_image(threshold, min_kept):
    logits, labels = make_case()
    hard = threshold_labels(logits, labels, threshold=threshold, min_kept=min_kept)
    expected = improbable(labelled_pixels(logits, labels), threshold, 2 * min_kept)
    assert kept(hard) == len(expected)
    assert cross_entropy(logits, hard).item() == pytest.approx(mean_loss(expected), rel=1e-12)


def test_the_least_kept_pixels_are_shared_by_the_images_of_a_batch():
    logits, labels = make_case(void=0)
    easy = torch.nn.functional.one_hot(labels, 5).permute(0, 3, 1, 2).double() * 20
    logits = torch.stack([logits[0].detach(), easy[1]])
    hard = threshold_labels(logits, labels, threshold=0.0, min_kept=10)
    assert (kept(hard[0]), kept(hard[1])) == (20, 0)


def test_a_uniform_prediction_keeps_exactly_as_many_pixels_as_asked():
    logits, labels = make_case(void=0)
    assert kept(threshold_labels(logits.detach() * 0, labels, threshold=0.0, min_kept=7)) == 14
    assert kept(top_k_labels(logits.detach() * 0, labels, share=torch.tensor(0.25))) == 24


def test_the_smallest_share_is_one_pixel():
    logits, labels = make_case()
    assert kept(top_k_labels(logits, labels, share=torch.tensor(1e-6))) == 1


def test_void_pixels_take_no_place_of_pixels_without_a_loss():
    _, labels = make_case()
    certain = 1e3 * torch.nn.functional.one_hot(labels.where(labels != 255, 0), 5).permute(0, 3, 1, 2).double()
    assert torch.equal(top_k_labels(certain, labels, share=torch.tensor(1.0)), labels)
    assert torch.equal(threshold_labels(certain, labels, threshold=0.0, min_kept=-(-kept(labels) // 2)), labels)


def test_void_pixels_are_never_kept_and_change_nothing():
    logits, labels = make_case()
    logits = logits.detach()
    spoiled = logits.clone()
    spoiled.permute(0, 2, 3, 1)[labels == 255] = torch.tensor([1e4, -1e4, 0, 0, 0], dtype=torch.float64)
    for keep in (
        lambda x, y: top_k_labels(x, y, share=torch.tensor(0.3)),
        lambda x, y: threshold_labels(x, y, threshold=0.4, min_kept=5),
    ):
        hard = keep(logits, labels)
        assert 0 < kept(hard) < kept(labels)
        assert bool((hard[labels == 255] == 255).all())
        assert torch.equal(keep(spoiled, labels), hard)
        assert kept(keep(logits, torch.full_like(labels, 255))) == 0


def test_the_kept_pixels_do_not_depend_on_where_they_are():
    logits, labels = make_case(size=(1, 8, 12))
    order = torch.randperm(96, generator=torch.Generator().manual_seed(1))
    moved_logits = logits.detach().flatten(2)[:, :, order].view_as(logits)
    moved_labels = labels.flatten()[order].view_as(labels)
    for keep in (
        lambda x, y: top_k_labels(x, y, share=torch.tensor(0.3)),
        lambda x, y: threshold_labels(x, y, threshold=0.4, min_kept=5),
    ):
        hard = keep(logits.detach(), labels)
        assert torch.equal(keep(moved_logits, moved_labels).flatten(), hard.flatten()[order])


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [int, torch.tensor])
def test_the_hardest_are_the_first_of_a_stable_sort(device, kind):
    """Oracle: sorting all pixels; with many ties, infinities, pixels without a number, and no pixel at all."""
    generator = torch.Generator().manual_seed(2)
    for trial in range(60):
        hardness = torch.randint(0, 4, (2, 5, 6), generator=generator).float()
        hardness[torch.rand(2, 5, 6, generator=generator) < 0.1] = float("nan") if trial % 2 else float("inf")
        hardness[torch.rand(2, 5, 6, generator=generator) < 0.1] = -0.0
        valid = torch.rand(2, 5, 6, generator=generator) > (0.3 if trial % 10 else 1.0)
        order = hardness.masked_fill(~valid, -1.0).flatten().argsort(descending=True, stable=True)
        for count in (1, 2, 7, 20, 45, 59, 60, 61, 1000):
            expected = torch.zeros(60, dtype=torch.bool)
            expected[order[:count]] = True
            found = _hardest(hardness.to(device), valid.to(device), kind(count))
            assert torch.equal(found.cpu(), expected.view_as(valid) & valid), (trial, count)


def test_only_kept_pixels_have_gradients():
    logits, labels = make_case()
    hard = top_k_labels(logits, labels, share=torch.tensor(0.25))
    (gradient,) = torch.autograd.grad(cross_entropy(logits, hard), logits)
    assert torch.equal(gradient.abs().sum(1) > 0, hard != 255)


def test_a_logit_that_is_not_a_number_is_not_hidden():
    logits, labels = make_case()
    logits = logits.detach()
    logits[0, :, 0, 0], labels[0, 0, 0] = float("nan"), 1
    for hard in (
        top_k_labels(logits, labels, share=torch.tensor(0.05)),
        threshold_labels(logits, labels, threshold=0.3, min_kept=1),
    ):
        assert bool(cross_entropy(logits, hard).isnan())


@pytest.mark.parametrize(("iteration", "share"), [(0, 1.0), (50, 0.65), (75, 0.475), (100, 0.3), (1000, 0.3)])
def test_the_share_goes_linearly_from_one_to_its_end(iteration, share):
    found = annealed_share(torch.tensor(iteration), top_k=0.3, anneal_iters=100)
    assert found.item() == pytest.approx(share, abs=1e-7)
    assert annealed_share(torch.tensor(iteration), top_k=0.3, anneal_iters=0).item() == pytest.approx(0.3, abs=1e-7)
