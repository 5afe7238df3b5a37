"""Toy scenes: the same everywhere, and made of what they promise."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from scaleeq.data.sets import toy
from scaleeq.engine import DatasetCatalog, MetadataCatalog

DIGEST = (
    "import hashlib; from scaleeq.data import toy; "
    "print(hashlib.sha256(b''.join(a.tobytes() for i in (3, 0) for a in toy.render_scene('val', i))).hexdigest())"
)


def test_a_scene_depends_on_split_and_index_alone():
    here = hashlib.sha256(b"".join(a.tobytes() for i in (3, 0) for a in toy.render_scene("val", i))).hexdigest()
    elsewhere = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DIGEST], capture_output=True, text=True, check=True
    )
    assert elsewhere.stdout.split()[-1] == here
    scenes = [toy.render_scene(split, index)[0] for split in ("train", "val") for index in range(4)]
    assert all((first != second).any() for i, first in enumerate(scenes) for second in scenes[:i])


def test_labels_are_integers_all_the_way():
    """Recorded with numpy 2.2 and 2.4: shapes come from integer draws and arithmetic, so no platform may differ."""
    digest = hashlib.sha256(b"".join(toy.render_scene("train", index)[1].tobytes() for index in range(8)))
    assert digest.hexdigest()[:16] == "f846c5ebcbd278fa"


def test_shapes_values_and_shares():
    counts = np.zeros(256, np.int64)
    for index in range(40):
        image, labels = toy.render_scene("train", index)
        assert image.shape == (toy.HEIGHT, toy.WIDTH, 3) and image.dtype == np.uint8
        assert labels.shape == (toy.HEIGHT, toy.WIDTH) and labels.dtype == np.uint8
        counts += np.bincount(labels.ravel(), minlength=256)
    share = counts / counts.sum()
    assert set(np.flatnonzero(counts)) == {*range(len(toy.CLASSES)), 255}
    assert share[: len(toy.CLASSES)].min() > 0.005, "no class is too rare to learn"
    assert share.max() < 0.5, "no class is the answer to everything"
    assert 0.002 < share[255] < 0.05


@pytest.mark.parametrize(("first", "second"), [(toy.SKY, toy.WATER), (toy.BEE, toy.BEETLE), (toy.MEADOW, toy.FIELD)])
def test_colour_alone_does_not_tell_the_pairs_apart(first, second):
    """The mean colours differ by much less than the colours of one class vary, over pixels of many scenes."""
    pixels: dict[int, list[np.ndarray]] = {first: [], second: []}
    for index in range(80):
        image, labels = toy.render_scene("train", index)
        for label, found in pixels.items():
            found.append(image[labels == label])
    one, two = (np.concatenate(found).astype(np.float64) for found in pixels.values())
    assert np.abs(one.mean(axis=0) - two.mean(axis=0)).max() < 0.5 * np.minimum(one.std(axis=0), two.std(axis=0)).min()


def test_fields_carry_waves_of_the_period_of_the_ground():
    """Oracle: the spectrum of one row: of a wave in any direction, its length along the row is the period at least."""
    y, x = np.mgrid[:8, :512].astype(np.float64)
    for seed in range(10):
        waves = toy._stripes(x, y, np.random.default_rng(seed))
        assert waves.min() > 0.1 and waves.max() < 0.9
        spectrum = np.abs(np.fft.rfft((waves[0] - waves[0].mean()) * np.hanning(512)))
        assert 512 / max(1, int(spectrum.argmax())) > 0.9 * toy.GROUND_PERIOD_PX[0]


def test_walls_carry_bricks_of_8_by_4_pixels():
    """Red against grey, pixels of a wall a period apart differ by the noise alone, those half a period apart by more.

    Every other row of bricks is shifted by half a brick, so that a period is two rows high.
    """
    scenes = [toy.render_scene("train", index) for index in range(40)]

    def change(down: int, right: int) -> float:
        """Mean square, over all pairs of pixels that are so far apart and both of walls."""
        squares = []
        for image, labels in scenes:
            red = np.where(labels == toy.WALL, image[..., 0] - image[..., 2].astype(np.float64), np.nan)
            squares.append((red[down:, right:] - red[: red.shape[0] - down, : red.shape[1] - right]).ravel() ** 2)
        return float(np.nanmean(np.concatenate(squares)))

    assert change(0, 8) < 0.7 * change(0, 4)
    assert change(8, 0) < 0.7 * change(4, 0) < 0.7 * change(2, 0)


def test_refusals():
    with pytest.raises(ValueError, match="'test'"):
        toy.render_scene("test", 0)
    with pytest.raises(IndexError, match="64"):
        toy.render_scene("val", 64)


@pytest.mark.parametrize(("split", "size"), [("train", 512), ("val", 64)])
def test_registered(split, size):
    records = DatasetCatalog.get(f"toy_sem_seg_{split}")
    metadata = MetadataCatalog.get(f"toy_sem_seg_{split}")
    assert len(records) == size == len({record["file_name"] for record in records})
    assert records[3]["read"].keywords == {"split": split, "index": 3}
    assert tuple(metadata.stuff_classes) == toy.CLASSES and len(metadata.stuff_colors) == len(toy.CLASSES)
    assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")
