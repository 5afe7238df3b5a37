"""Labels of upsampled scores, a class at a time. Oracle: the maximum of all of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scaleeq.ops import argmax, resized_argmax

SIZES = [((8, 11), (32, 44)), ((9, 13), (50, 37)), ((20, 20), (7, 9)), ((6, 5), (6, 5))]


def resized_to(size):
    return lambda maps: F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("at_once", [1, 3, 1000])
@pytest.mark.parametrize("num_classes", [1, 2, 19, 256])
@pytest.mark.parametrize(("source", "size"), SIZES)
def test_labels_are_those_of_the_maximum(source, size, num_classes, at_once, monkeypatch):
    scores = torch.randn(num_classes, *source, generator=torch.Generator().manual_seed(0))
    scores = (4 * scores).round() / 4  # many are equal: the first class has a tie
    if at_once > 1:
        monkeypatch.setattr(argmax, "_chunks", lambda scores, resized: chunks_of(scores, resized, at_once))
    found = resized_argmax(scores, resized_to(size))
    labels = resized_to(size)(scores).max(0)[1]
    assert torch.equal(found.labels.long(), labels) and found.finite == 1
    assert found.shape == (num_classes, *size)


def chunks_of(scores, resized, at_once):
    """As on another device than a CPU."""
    return ((first, resized(scores[first : first + at_once])) for first in range(0, len(scores), at_once))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_layout(layout):
    scores = torch.randn(2, 5, 9, 7).contiguous(memory_format=layout)
    found = resized_argmax(scores[1], resized_to((36, 28)))
    assert torch.equal(found.labels.long(), resized_to((36, 28))(scores[1].contiguous()).argmax(0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("of", [0, 3, 4])
def test_scores_that_are_not_finite_are_seen(of, value):
    scores = torch.randn(5, 6, 6)
    scores[of, 2, 3] = value
    assert resized_argmax(scores, resized_to((24, 24))).finite == 0


def test_masked_classes_are_no_fault_but_masked_pixels_are():
    scores = torch.randn(5, 6, 6)
    scores[[0, 3]] = -torch.inf
    found = resized_argmax(scores, lambda maps: maps)
    assert found.finite == 1 and torch.equal(found.labels.long(), scores.argmax(0))
    scores[:, 1, 1] = -torch.inf
    assert resized_argmax(scores, lambda maps: maps).finite == 0
