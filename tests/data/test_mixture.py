"""A mixture of data sets: shares, epochs of each set, and positions that know no past. Oracle: counting along."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest

from scaleeq.data.loading import build_train_loader
from scaleeq.data.mixture import BLOCK, Mixture, places
from scaleeq.engine import DatasetCatalog
from tests.training.tiny import tiny_config


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1, 1], [500, 500]), ([3, 1], [750, 250]), ([1, 1, 1], [334, 333, 333]), ([0.2, 0.5], [286, 714])],
)
def test_shares(weights, expected):
    assert places(weights) == expected
    mixture = Mixture([7] * len(weights), weights, seed=5)
    for block in range(3):
        counts = Counter(mixture(block * BLOCK + offset) // 7 for offset in range(BLOCK))
        assert [counts[index] for index in range(len(weights))] == expected


def test_each_set_goes_through_its_own_epochs():
    """Any run of `size` samples of a set that begins with an epoch has each of its records once."""
    sizes = [7, 40]
    mixture = Mixture(sizes, [3, 1], seed=0)
    drawn: list[list[int]] = [[], []]
    for position in range(2 * BLOCK):
        index = mixture(position)
        drawn[index >= sizes[0]].append(index - sizes[0] * (index >= sizes[0]))
    for size, indexes in zip(sizes, drawn, strict=True):
        epochs = [indexes[at : at + size] for at in range(0, len(indexes) - size + 1, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert epochs[0] != epochs[1]


def test_a_position_knows_no_past():
    mixture = Mixture([7, 40], [3, 1], seed=1)
    whole = [mixture(position) for position in range(1500)]
    assert [Mixture([7, 40], [3, 1], seed=1)(position) for position in (3, 1200, 999, 1000)] == [
        whole[position] for position in (3, 1200, 999, 1000)
    ]
    assert [pickle.loads(pickle.dumps(mixture))(position) for position in range(50)] == whole[:50]
    assert [Mixture([7, 40], [3, 1], seed=2)(position) for position in range(1500)] != whole


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_weights_that_cannot_be_meant(weights):
    with pytest.raises(ValueError, match=r"DATALOADER\.WEIGHTS is .*for each of 2 data sets"):
        Mixture([4, 4], weights, seed=0)


def test_a_share_that_is_too_small():
    with pytest.raises(ValueError, match="less than one in 1000"):
        Mixture([4, 4], [1e4, 1], seed=0)


def test_the_loader_resumes_in_it(tmp_path):
    sets = ("tiny_sem_seg_val", "toy_sem_seg_train")
    keys = {"DATASETS__TRAIN": sets, "DATASETS__TEST": (), "DATALOADER__WEIGHTS": [1, 3], "SEED": 3}
    cfg = tiny_config(tmp_path, **keys)
    loader = iter(build_train_loader(cfg))
    names = [[sample["file_name"] for sample in next(loader)] for _ in range(12)]
    resumed = iter(build_train_loader(cfg, start_iteration=5))
    assert [[sample["file_name"] for sample in next(resumed)] for _ in range(7)] == names[5:]
    first = {record["file_name"] for record in DatasetCatalog.get(sets[0])}
    share = sum(name in first for batch in names for name in batch) / 24
    assert 0 < share < 0.6

    with pytest.raises(ValueError, match=r"DATALOADER\.WEIGHTS is \[1\], 1 for the 2 data sets"):
        tiny_config(tmp_path, **keys | {"DATALOADER__WEIGHTS": [1]})
