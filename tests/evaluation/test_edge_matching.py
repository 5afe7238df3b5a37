"""The largest matchings of the first places. Oracle: scipy's matching of each of these graphs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from scaleeq.evaluation.edges import matching_sizes


@pytest.mark.parametrize("density", [0.02, 0.1, 0.3, 0.9])
@pytest.mark.parametrize(("places", "targets"), [(30, 30), (60, 20), (20, 60)])
def test_each_beginning_has_its_largest_matching(places, targets, density):
    for seed in range(5):
        graph = np.random.default_rng(seed).random((places, targets)) < density
        found = matching_sizes([np.flatnonzero(row).tolist() for row in graph], targets)
        for count, size in enumerate(found):
            beginning = csr_matrix(graph[:count].astype(np.int8))
            expected = maximum_bipartite_matching(beginning, perm_type="column") if count else np.array([-1])
            assert size == np.count_nonzero(expected >= 0)


def test_places_that_all_want_one_target():
    assert matching_sizes([[0], [0], [0, 1], [1], []], 2) == [0, 1, 1, 2, 2, 2]
    assert matching_sizes([], 3) == [0] and matching_sizes([[], []], 0) == [0, 0, 0]


def test_a_path_of_many_targets_is_turned():
    """Place n takes target n first, until one comes that only the first target can serve."""
    chain = [[n, n + 1] for n in range(50)] + [[0]]
    assert matching_sizes(chain, 51)[-2:] == [50, 51]
    full = [*([n, n + 1] for n in range(49)), [49], [0]]
    assert matching_sizes(full, 50)[-2:] == [50, 50]
