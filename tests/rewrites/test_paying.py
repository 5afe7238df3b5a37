"""The estimate by which a convolution of resized maps is evaluated per branch, against its parts added up by hand."""

from __future__ import annotations

import pytest

from scaleeq.rewrites.paying import ADDED, COPIED, ORDERED, RESIZED, SMALL_PRODUCT, SUMMED, cost_ratio


def test_a_1x1_convolution_resizes_its_results_instead_of_its_inputs():
    plain = 256 * (32 * 4 + 24 * RESIZED) + 256 * 32 * COPIED
    branches = 256 * 8 * 4 + 16 * 24 * 4 + 256 * 4 * (RESIZED + SUMMED)
    found = cost_ratio([(1, 8, 16, 16), (1, 24, 4, 4)], (4, 32, 1, 1), (16, 16))
    assert found == pytest.approx(branches / plain, rel=1e-12)


@pytest.mark.parametrize("kernel", [1, 3])
def test_without_a_small_map_both_ways_are_one(kernel):
    assert cost_ratio([(2, 8, 16, 16), (2, 24, 16, 16)], (4, 32, kernel, kernel), (16, 16)) == 1


def test_a_3x3_convolution_reads_bands_of_small_maps():
    """One tile each way, which reads all 4 rows and 4 columns of the small map."""
    plain = 256 * (24 * 9 * 4 + 24 * RESIZED)
    bands = 16 * 4 * 3 * 4 * 3 * 4 + 256 * 4 * 3 * 4
    branches = SMALL_PRODUCT * (16 * 24 * 9 * 4) + 2.3 * bands + 24 * 9 * 4 * ORDERED / 2 + 256 * 4 * ADDED
    found = cost_ratio([(2, 24, 4, 4)], (4, 24, 3, 3), (16, 16))
    assert found == pytest.approx(branches / plain, rel=1e-12)
