"""From a prediction to the image's own size. Oracles: Detectron2's sem_seg_postprocess; a mean over cells by hand."""

from __future__ import annotations

import pytest
import torch

from scaleeq.tasks.base import Task
from scaleeq.tasks.semantic import SemanticTask


def test_padding_is_cut_before_the_resize():
    values = torch.zeros(1, 1, 4, 6)
    values[..., 2:, :] = 9.0  # padding below
    (finished,) = SemanticTask(num_classes=1).finish(values, (4, 6), [(2, 6)], [(8, 3)])
    assert finished.shape == (1, 8, 3)
    assert float(finished.abs().max()) == 0.0


def test_halving_is_the_mean_of_each_cell():
    values = torch.arange(48.0).reshape(1, 2, 4, 6) ** 2
    (finished,) = SemanticTask(num_classes=2).finish(values, (4, 6), [(4, 6)], [(2, 3)])
    assert torch.equal(finished, values[0].reshape(2, 2, 2, 3, 2).mean((2, 4)))


@pytest.mark.parametrize("image_size, size", [((7, 10), (23, 5)), ((9, 11), (9, 11)), ((4, 4), (16, 2))])
def test_equals_detectron2(image_size, size):
    postprocessing = pytest.importorskip("detectron2.modeling.postprocessing", reason="Detectron2 is not installed")
    logits = torch.randn(3, 9, 11, generator=torch.Generator().manual_seed(0))
    (finished,) = SemanticTask(num_classes=3).finish(logits[None], (9, 11), [image_size], [size])
    assert torch.equal(finished, postprocessing.sem_seg_postprocess(logits, image_size, *size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_through_both_resizes_are_bit_for_bit_those_of_the_logits(dtype):
    logits = torch.randn(2, 21, 16, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    sizes = (64, 96), [(61, 90), (64, 77)], [(100, 141), (64, 77)]
    task = SemanticTask(num_classes=21)
    for finished, found in zip(task.finish(logits, *sizes), task.finish_labels(logits, *sizes), strict=True):
        assert found.shape == finished.shape
        assert torch.equal(found.labels.long(), finished.max(0)[1])


def test_another_task_has_no_labels():
    assert Task.finish_labels(SemanticTask(num_classes=2), torch.zeros(1, 2, 1, 1), (1, 1), [(1, 1)], [(1, 1)]) is None
