"""From a prediction to the image's own size. Oracles: Detectron2's sem_seg_postprocess; a mean over cells by hand."""

from __future__ import annotations

import pytest
import torch

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
