"""Plain models: how a batch is padded. Oracles: Detectron2's ImageList; sizes by hand."""

from __future__ import annotations

import pytest
import torch

from scaleeq.ops.padding import padded, padded_size

SIZES = {"equal": [(5, 7), (5, 7)], "different": [(5, 7), (6, 3)], "alone": [(9, 4)]}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
    ("divisibility", "constraints"),
    [(0, {}), (1, {}), (4, {}), (4, {"size_divisibility": 8}), (0, {"square_size": 12}), (8, {"square_size": 12})],
)
def test_padding_is_that_of_detectron2(sizes, divisibility, constraints):
    structures = pytest.importorskip("detectron2.structures", reason="Detectron2 is not installed")
    images = [torch.randn(3, *size) for size in sizes]
    expected = structures.ImageList.from_tensors(images, divisibility, padding_constraints=constraints)
    found = padded(images, padded_size(sizes, divisibility, constraints))
    assert torch.equal(found, expected.tensor)


def test_images_are_padded_at_the_right_and_below_to_what_divides():
    found = padded([torch.ones(1, 2, 3), torch.ones(1, 3, 2)], padded_size([(2, 3), (3, 2)], 4, {}))
    assert found.shape == (2, 1, 4, 4)
    assert found[0, 0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert padded_size([(5, 7)], 8, {"square_size": 12}) == (16, 16)


def test_an_image_larger_than_the_square_is_refused():
    with pytest.raises(ValueError, match="square_size 4 is smaller than an image of 5x3 pixels"):
        padded_size([(5, 3)], constraints={"square_size": 4})
