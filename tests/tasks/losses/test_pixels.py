"""Cross entropy, focal loss and their averages. Oracles: torch's cross entropy where the two must agree; closed forms;
the definitions, pixel by pixel, in numpy."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from scaleeq.tasks.losses.pixels import cross_entropy, focal_loss, pixel_count
from tests.tasks.losses.reference import labelled_pixels, make_case, mean_loss

WEIGHTS = [0.5, 2.0, 0.0, 1.0, 3.0]


def test_valid_average_is_torchs_mean():
    logits, labels = make_case()
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels, ignore_index=255))


def test_all_average_counts_void_pixels_as_zero():
    logits, labels = make_case()
    share = (labels != 255).double().mean().item()
    assert 0.5 < share < 0.9
    expected = F.cross_entropy(logits, labels, ignore_index=255).item() * share
    assert cross_entropy(logits, labels, average_over="all").item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("average", ["valid", "all"])
def test_void_everywhere_is_zero_with_zero_gradients(average):
    logits, labels = make_case(void=1.1)
    for loss in (
        cross_entropy(logits, labels, average_over=average, label_smoothing=0.1),
        focal_loss(logits, labels, gamma=2.0, average_over=average),
    ):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.item() == 0
        assert gradient.abs().max() == 0
    assert math.isnan(F.cross_entropy(logits, labels, ignore_index=255).item())  # what this survives


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("average", ["valid", "all"])
def test_class_weights_and_label_smoothing_are_torchs(average, smoothing):
    logits, labels = make_case()
    weights = torch.tensor(WEIGHTS)
    options = {"label_smoothing": smoothing, "class_weights": weights}
    loss = cross_entropy(logits, labels, average_over=average, **options)
    reduction = "mean" if average == "valid" else "sum"
    expected = F.cross_entropy(
        logits, labels, weights.double(), ignore_index=255, reduction=reduction, label_smoothing=smoothing
    )
    torch.testing.assert_close(loss, expected if average == "valid" else expected / labels.numel())
    if average == "valid":
        slow = mean_loss(labelled_pixels(logits, labels), weights=WEIGHTS, smoothing=smoothing)
        assert loss.item() == pytest.approx(slow, rel=1e-12)
    assert cross_entropy(logits, torch.full_like(labels, 255), average_over=average, **options).item() == 0
    assert cross_entropy(logits, torch.full_like(labels, 2), average_over=average, class_weights=weights).item() == 0


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_loss_is_its_definition(gamma, weights):
    logits, labels = make_case()
    loss = focal_loss(logits, labels, gamma=gamma, class_weights=None if weights is None else torch.tensor(weights))
    expected = mean_loss(labelled_pixels(logits, labels), weights=weights, gamma=gamma)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_focal_loss_at_gamma_zero_is_cross_entropy_and_never_above_it():
    logits, labels = make_case()
    plain = cross_entropy(logits, labels)
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0.0), plain)
    assert 0 < focal_loss(logits, labels, gamma=2.0) < 0.9 * plain
    uniform = focal_loss(torch.zeros_like(logits), labels, gamma=2.0).item()
    assert uniform == pytest.approx(math.log(5) * 0.8**2, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_gradients_stay_finite_where_the_prediction_is_certain(gamma):
    labels = torch.tensor([[[0, 0, 1, 255]]])  # right for certain, nearly so, wrong for certain, void
    logits = torch.tensor([200.0, 15.0, 200.0, 200.0]).view(1, 1, 1, 4)
    logits = torch.cat([logits, torch.zeros_like(logits)], 1).requires_grad_()
    (gradient,) = torch.autograd.grad(focal_loss(logits, labels, gamma=gamma), logits)
    assert torch.isfinite(gradient).all()
    assert gradient[..., [0, 3]].abs().max() == 0
    assert gradient[..., 2].abs().min() > 0.1


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: cross_entropy(x, y, class_weights=torch.tensor(WEIGHTS), label_smoothing=0.2),
        lambda x, y: focal_loss(x, y, gamma=2.0, class_weights=torch.tensor(WEIGHTS)),
        lambda x, y: focal_loss(x, y, gamma=0.5, average_over="all"),
    ],
)
def test_gradients_are_those_of_finite_differences(loss):
    logits, labels = make_case(size=(2, 3, 2))
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits)


def test_counts_are_pixels_or_the_sum_of_their_weights():
    labels = torch.tensor([[[0, 1, 255], [4, 4, 2]]])
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    assert pixel_count(labels).item() == 5
    assert pixel_count(labels, average_over="all", class_weights=weights).item() == 6
    assert pixel_count(labels, class_weights=weights).item() == 0.5 + 2 + 3 + 3


def test_a_given_count_replaces_the_batchs_own_where_it_is_positive():
    logits, labels = make_case()
    own = cross_entropy(logits, labels)
    torch.testing.assert_close(cross_entropy(logits, labels, mean_count=torch.tensor(0.0)), own)
    given = cross_entropy(logits, labels, mean_count=torch.tensor(10.0))
    torch.testing.assert_close(given, own * pixel_count(labels) / 10)


def test_other_ignore_values_and_precisions():
    logits, labels = make_case()
    moved = labels.where(labels != 255, 7)
    torch.testing.assert_close(cross_entropy(logits, moved, ignore_value=7), cross_entropy(logits, labels))
    for dtype in (torch.bfloat16, torch.float16):
        half = logits.to(dtype)
        for loss in (cross_entropy(half, labels), focal_loss(half, labels, gamma=2.0)):
            assert loss.dtype == torch.float32
        torch.testing.assert_close(cross_entropy(half, labels), cross_entropy(half.float(), labels))


def test_unknown_averages_are_refused():
    with pytest.raises(ValueError, match="'batch'; choose one of valid, all"):
        cross_entropy(*make_case(), average_over="batch")
