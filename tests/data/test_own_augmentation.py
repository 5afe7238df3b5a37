"""INPUT.AUGMENTATION: a user's function, what it is given, what it may not do."""

from __future__ import annotations

import numpy as np
import pytest

from scaleeq.data.mapper import SegmentationMapper
from scaleeq.data.own_augmentation import augmented_by, own_augmentation
from scaleeq.engine import load_config
from tests.data.test_mapper import RECORD

MINE = """
def inverted(image, maps, rng):
    assert set(maps) == {"sem_seg"} and maps["sem_seg"].shape == image.shape[:2]
    return (255 - image if rng.random() < 0.5 else image), maps

def cut(image, maps, rng):
    return image[:8], maps

NOTHING = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine_augmentation.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_augmentation"


def mapper(function: str) -> SegmentationMapper:
    return SegmentationMapper.from_config(load_config("quickstart", ["INPUT.AUGMENTATION", function]), is_train=True)


def test_it_comes_after_our_own_and_draws_of_the_samples_generator(mine):
    plain, own = mapper(""), mapper(f"{mine}:inverted")
    seen = set()
    for seed in range(8):
        image, changed = (each(RECORD, np.random.default_rng(seed))["image"] for each in (plain, own))
        again = own(RECORD, np.random.default_rng(seed))["image"]
        assert (changed == again).all(), "a function of the seed"
        assert (changed == image).all() or (changed == 255 - image).all()
        seen.add(bool((changed == image).all()))
    assert seen == {True, False}
    assert SegmentationMapper.from_config(load_config("quickstart"), is_train=True).own is None
    test = SegmentationMapper.from_config(load_config("quickstart", ["INPUT.AUGMENTATION", "no:thing"]), is_train=False)
    assert test.own is None, "not in testing"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("inverted", "INPUT.AUGMENTATION is 'inverted'; give module:function"),
        ("no_such_module_of_mine:f", "No module named 'no_such_module_of_mine'; put its folder on PYTHONPATH"),
        ("{}:f", "mine_augmentation has no function 'f'"),
        ("{}:NOTHING", "mine_augmentation has no function 'NOTHING'"),
    ],
)
def test_names_that_mean_nothing_are_refused(mine, function, message):
    with pytest.raises(ValueError, match=message):
        own_augmentation(function.format(mine))


def test_what_does_not_fit_together_is_refused(mine):
    with pytest.raises(ValueError, match=r"gave, of .*0005\.png, an image \(8, .* and sem_seg as uint8"):
        mapper(f"{mine}:cut")(RECORD, np.random.default_rng(0))
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="takes maps alone, but the samples have instances"):
        augmented_by(lambda *given: given[:2], image, {"instances": object()}, np.random.default_rng(0), source="a")
    with pytest.raises(ValueError, match=r"gave no \(H, W, 3\) uint8 image of a"):
        augmented_by(lambda i, m, r: (i / 255, m), image, {}, np.random.default_rng(0), source="a")
