"""Plain models: padding as Detectron2's ImageList has it. Oracle: the engine's ImageList."""

from __future__ import annotations

import pytest
import torch

from scaleeq.engine import ImageList
from scaleeq.model import padded, padded_size

SIZES = {"equal": [(5, 7), (5, 7)], "different": [(5, 7), (6, 3)], "alone": [(9, 4)]}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
    ("divisibility", "constraints"),
    [(0, {}), (1, {}), (4, {}), (4, {"size_divisibility": 8}), (0, {"square_size": 12}), (8, {"square_size": 12})],
)
def test_padding_is_the_engines(sizes, divisibility, constraints):
    images = [torch.randn(3, *size) for size in sizes]
    expected = ImageList.from_tensors(images, divisibility, padding_constraints=constraints)
    found = padded(images, padded_size(sizes, divisibility, constraints))
    assert torch.equal(found, expected.tensor)


def test_an_image_larger_than_the_square_is_refused():
    with pytest.raises(ValueError, match="square_size 4 is smaller than an image of 5x3 pixels"):
        padded_size([(5, 3)], constraints={"square_size": 4})
