"""What a data set's fingerprint sees, and what it does not. Files of a test's own; no oracle but what was changed."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from scaleeq.data.fingerprint import DataFingerprint, fingerprint
from scaleeq.data.folder import load_folder
from scaleeq.data.sets.toy import load_toy
from tests.training.tiny import tiny_config

NAMES = [f"{index:02d}" for index in range(6)]


@pytest.fixture
def folder(tmp_path):
    """A folder data set of six images and their labels."""
    base = tmp_path / "data" / "mine"
    for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
        (base / kind / "train").mkdir(parents=True)
        for index, name in enumerate(NAMES):
            (base / kind / "train" / (name + suffix)).write_bytes(b"x" * (100 + index))
    (base / "classes.txt").write_text("a\nb\n")
    return base


def of(base):
    return fingerprint(load_folder(str(base), "train"))


def test_a_copy_elsewhere_is_the_same_data_set(folder, tmp_path, monkeypatch):
    before = of(folder)
    assert before.shape == (6,) and before.dtype == torch.int64 and len(before.unique()) == 6
    shutil.copytree(folder, tmp_path / "another" / "place")
    assert torch.equal(of(tmp_path / "another" / "place"), before)
    monkeypatch.chdir(tmp_path / "data")
    assert torch.equal(of("mine"), before), "a path that is not absolute"


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_sizes_of_images_and_labels_count(folder, kind):
    before = of(folder)
    file = folder / kind / "train" / f"03{'.jpg' if kind == 'images' else '.png'}"
    file.write_bytes(file.read_bytes() + b"y")
    assert (of(folder) != before).nonzero().flatten().tolist() == [3]


def test_names_and_the_order_count(folder):
    records = load_folder(str(folder), "train")
    before = fingerprint(records)
    assert torch.equal(fingerprint(records[::-1]), before.flip(0))
    for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
        os.rename(folder / kind / "train" / f"03{suffix}", folder / kind / "train" / f"03b{suffix}")
    assert (of(folder) != before).nonzero().flatten().tolist() == [3]


def test_a_toy_scene_is_its_parameters():
    records = load_toy("train")
    numbers = fingerprint(records)
    assert len(numbers.unique()) == len(records)
    records[5]["scene"] = {"split": "train", "index": 77}
    assert (fingerprint(records) != numbers).nonzero().flatten().tolist() == [5]
    assert fingerprint([]).shape == (0,)


def take_away(folder, *names):
    for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
        for name in names:
            os.unlink(folder / kind / "train" / f"{name}{suffix}")


def config(folder, tmp_path, **changes):
    name = f"folder:{folder}/train"
    return tiny_config(tmp_path / "run", DATASETS__TRAIN=(name,), DATASETS__TEST=(name,), **changes)


def test_what_differs_is_named(folder, tmp_path):
    saved = DataFingerprint(config(folder, tmp_path)).state_dict()
    assert DataFingerprint(config(folder, tmp_path)).differences(saved) == []
    take_away(folder, "02")
    train, test = DataFingerprint(config(folder, tmp_path)).differences(saved)
    assert train.startswith(f"DATASETS.TRAIN folder:{folder}/train has 5 images, the run began with 6: they differ ")
    assert train.endswith("from image 3 on, now 03.jpg")
    assert test.startswith("DATASETS.TEST folder:")
    take_away(folder, "03", "04", "05")
    [train, _] = DataFingerprint(config(folder, tmp_path)).differences(saved)
    assert "has 2 images, the run began with 6: they differ after 01.jpg" in train


def test_of_as_many_images_the_first_other_one_is_named(folder, tmp_path):
    saved = DataFingerprint(config(folder, tmp_path)).state_dict()
    (folder / "images" / "train" / "04.jpg").write_bytes(b"")
    [train, _] = DataFingerprint(config(folder, tmp_path)).differences(saved)
    assert "has 6 images as before, but others" in train and "from image 5 on, now 04.jpg" in train


def test_only_what_both_name_alike_is_compared(folder, tmp_path):
    """A changed key is warned of where all are."""
    whole = DataFingerprint(config(folder, tmp_path)).state_dict()
    half = DataFingerprint(config(folder, tmp_path, DATASETS__TRAIN_FRACTION=0.5))
    assert len(half.state_dict()["DATASETS.TRAIN"][f"folder:{folder}/train"]) == 3
    assert half.differences(whole) == []
    toy = DataFingerprint(tiny_config(tmp_path / "run"))
    assert toy.differences(whole) == []
