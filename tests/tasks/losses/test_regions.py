"""Dice and Lovasz-softmax. Oracles: their definitions in numpy (for Lovasz the set function itself); closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scaleeq.tasks.losses.regions import dice_loss, labelled_classes, lovasz_softmax
from tests.tasks.losses import reference
from tests.tasks.losses.reference import labelled_pixels, make_case

LOSSES = {"dice": (dice_loss, reference.dice), "lovasz": (lovasz_softmax, reference.lovasz)}
each_loss = pytest.mark.parametrize("loss", [dice_loss, lovasz_softmax])


def certain(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits that are sure of the labels."""
    return 100.0 * F.one_hot(labels.where(labels != 255, 0), classes).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 5, 40])
def test_value_is_the_definition(name, classes):
    loss, slow = LOSSES[name]
    logits, labels = make_case(classes=classes, seed=classes)
    assert loss(logits, labels).item() == pytest.approx(slow(labelled_pixels(logits, labels)), rel=1e-12)


@pytest.mark.parametrize("ignore_value", [255, -1, 2])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.uint8])
def test_the_labelled_classes_are_those_of_a_sorted_set(ignore_value, dtype):
    labels = torch.tensor([[[4, 0, ignore_value], [4, 6, 0]]]).to(dtype)
    ignore_value = int(labels[0, 0, 2])
    for some in (labels, torch.full_like(labels, ignore_value)):
        expected = sorted(set(some.flatten().tolist()) - {ignore_value})
        assert labelled_classes(some, num_classes=7, ignore_value=ignore_value).tolist() == expected


@each_loss
def test_known_classes_change_no_bit(loss):
    logits, labels = make_case()
    known = loss(logits, labels, classes=labelled_classes(labels, num_classes=5))
    assert torch.equal(known, loss(logits, labels))


@each_loss
def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_everything(loss):
    _, labels = make_case()
    assert loss(certain(labels, 5), labels).item() == pytest.approx(0, abs=1e-6)
    elsewhere = (labels + 1).where(labels < 4, 0).where(labels != 255, 255)
    assert loss(certain(elsewhere, 5), labels).item() == pytest.approx(1, abs=1e-6)


def test_lovasz_at_certain_predictions_is_one_minus_the_mean_iou():
    _, labels = make_case()
    _, predicted = make_case(void=0, seed=1)
    valid = labels != 255
    ious = []
    for c in range(5):
        both, either = (predicted == c) & (labels == c), ((predicted == c) | (labels == c)) & valid
        ious.append((both.sum() / either.sum()).item())
    assert lovasz_softmax(certain(predicted, 5), labels).item() == pytest.approx(1 - sum(ious) / 5, abs=1e-6)


def test_a_uniform_prediction_has_the_closed_form():
    logits, labels = make_case()
    counts = [int((labels == c).sum()) for c in range(5)]
    dice = [1 - 2 * (n / 5) / (sum(counts) / 25 + n) for n in counts]
    assert dice_loss(logits * 0, labels).item() == pytest.approx(sum(dice) / 5, rel=1e-12)
    assert lovasz_softmax(logits * 0, labels).item() == pytest.approx(1 - 1 / 5, rel=1e-12)


@each_loss
def test_gradients_are_those_of_finite_differences(loss):
    logits, labels = make_case(size=(2, 3, 4))
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits)
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    assert gradient.abs().max() > 1e-3


@each_loss
def test_void_pixels_have_no_influence(loss):
    logits, labels = make_case()
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    void = (labels == 255).unsqueeze(1).expand_as(gradient)
    assert gradient[void].abs().max() == 0
    spoiled = logits.detach().where(~void, 1e3 * torch.randn(logits.shape, dtype=torch.float64)).requires_grad_()
    torch.testing.assert_close(loss(spoiled, labels), value)
    torch.testing.assert_close(torch.autograd.grad(loss(spoiled, labels), spoiled)[0], gradient)
    moved = labels.where(labels != 255, 9)
    torch.testing.assert_close(loss(logits, moved, ignore_value=9), value)


@each_loss
def test_void_everywhere_is_zero_with_zero_gradients(loss):
    logits, labels = make_case(void=1.1)
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == 0
    assert gradient.abs().max() == 0


@each_loss
def test_neither_the_order_of_pixels_nor_of_classes_matters(loss):
    logits, labels = make_case(size=(1, 8, 12))
    generator = torch.Generator().manual_seed(1)
    pixels, classes = torch.randperm(96, generator=generator), torch.randperm(5, generator=generator)
    value = loss(logits, labels)
    moved = loss(logits.flatten(2)[:, :, pixels].view_as(logits), labels.flatten()[pixels].view_as(labels))
    torch.testing.assert_close(moved, value)
    position = classes.argsort()
    renamed = position[labels.where(labels != 255, 0)].where(labels != 255, 255)
    torch.testing.assert_close(loss(logits[:, classes], renamed), value)


@each_loss
def test_absent_classes_are_left_out(loss):
    logits, labels = make_case(void=0)
    labels = labels.where(labels < 3, 255)
    pixels = labelled_pixels(logits, labels)
    slow = reference.dice if loss is dice_loss else reference.lovasz
    assert {y for _, y in pixels} == {0, 1, 2}
    assert loss(logits, labels).item() == pytest.approx(slow(pixels), rel=1e-12)


@each_loss
def test_one_class_is_always_right(loss):
    logits, labels = make_case(classes=1)
    value = loss(logits, labels)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(value, logits)[0].abs().max() < 1e-12


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_many_pixels_keep_their_digits(loss, dtype):
    logits, labels = make_case(classes=3, size=(1, 512, 512))
    logits = logits.detach().to(dtype)
    value = loss(logits, labels)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(logits.double(), labels).item(), rel=3e-6)


@each_loss
def test_only_maps_of_the_labelled_classes_are_kept_for_the_backward_pass(loss):
    logits = torch.randn(1, 150, 32, 32, requires_grad=True)
    labels = torch.randint(0, 3, (1, 32, 32))
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        value = loss(logits, labels)
    kept.pop(logits.untyped_storage().data_ptr(), None)
    assert 0 < sum(kept.values()) < logits.untyped_storage().nbytes() / 5
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()
