"""Cross entropy and its averages. Oracles: torch's own cross entropy where the two must agree; closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from scaleeq.losses import LossOptions, SegmentationLoss, cross_entropy


def make_case(void: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 8, 6, generator=generator, requires_grad=True)
    labels = torch.randint(0, 5, (2, 8, 6), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < void] = 255
    return logits, labels


def test_valid_average_is_torchs_mean():
    logits, labels = make_case()
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels, ignore_index=255))


def test_all_average_counts_void_pixels_as_zero():
    logits, labels = make_case()
    share = (labels != 255).double().mean().item()
    assert 0.5 < share < 0.9
    expected = F.cross_entropy(logits, labels, ignore_index=255).item() * share
    assert cross_entropy(logits, labels, average_over="all").item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("average", ["valid", "all"])
def test_void_everywhere_is_zero_with_zero_gradients(average):
    logits, labels = make_case(void=1.1)
    loss = cross_entropy(logits, labels, average_over=average)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0
    assert math.isnan(F.cross_entropy(logits, labels, ignore_index=255).item())  # what this survives


@pytest.mark.parametrize("average", ["valid", "all"])
def test_class_weights_are_torchs(average):
    logits, labels = make_case()
    weights = [0.5, 2.0, 0.0, 1.0, 3.0]
    loss = SegmentationLoss(options=LossOptions(class_weights=weights, average_over=average))(logits, labels)
    reduction = "mean" if average == "valid" else "sum"
    expected = F.cross_entropy(logits, labels, torch.tensor(weights), ignore_index=255, reduction=reduction)
    torch.testing.assert_close(loss, expected if average == "valid" else expected / labels.numel())
    void = SegmentationLoss(options=LossOptions(class_weights=weights, average_over=average))(
        logits, torch.full_like(labels, 255)
    )
    assert void.item() == 0
    assert not SegmentationLoss(options=LossOptions(class_weights=weights)).state_dict()


def test_wrong_class_weights_are_refused():
    logits, labels = make_case()
    with pytest.raises(ValueError, match="has 2 numbers for 5 classes"):
        SegmentationLoss(options=LossOptions(class_weights=[1.0, 2.0]))(logits, labels)
    with pytest.raises(ValueError, match="weights are not negative"):
        LossOptions(class_weights=[1.0, -2.0])


def test_module_upsamples_to_the_labels_and_weights():
    logits, labels = make_case()
    small = logits[..., ::2, ::2]
    upsampled = F.interpolate(small, size=(8, 6), mode="bilinear", align_corners=False)
    loss = SegmentationLoss(weight=0.4)(small, labels)
    torch.testing.assert_close(loss, 0.4 * F.cross_entropy(upsampled, labels, ignore_index=255))


def test_other_ignore_values_and_precisions():
    logits, labels = make_case()
    moved = labels.where(labels != 255, 7)
    torch.testing.assert_close(cross_entropy(logits, moved, ignore_value=7), cross_entropy(logits, labels))
    assert cross_entropy(logits.bfloat16(), labels).dtype == torch.float32


def test_unknown_averages_are_refused():
    with pytest.raises(ValueError, match="'batch'; choose one of valid, all"):
        LossOptions(average_over="batch")
    with pytest.raises(ValueError, match="'batch'; choose one of valid, all"):
        cross_entropy(*make_case(), average_over="batch")
