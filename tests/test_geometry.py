"""How maps of values follow their image: depth, directions, labels; the oracles are closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from scaleeq.data.augmentation import Crop, TrainAugmentation
from scaleeq.geometry import Geometry, Map

DEPTH = Geometry(padding=0.0, zoom_power=-1.0)
NORMALS = Geometry(padding=(0.0, 0.0, 0.0), negated_x=(0,), negated_y=(1,))


def test_what_is_twice_as_large_is_half_as_far_away():
    depth = np.array([[4.0, 8.0], [0.0, 2.0]], np.float32)
    doubled = DEPTH.resized(depth, (4, 4))
    assert doubled.dtype == np.float32
    np.testing.assert_array_equal(doubled, np.kron(depth / 2, np.ones((2, 2))))
    np.testing.assert_array_equal(depth[0], [4, 8]), "the argument is not changed"


@pytest.mark.parametrize(("direction", "axis", "channel"), [("horizontal", 1, 0), ("vertical", 0, 1)])
def test_a_direction_is_turned_with_its_image(direction, axis, channel):
    normals = np.random.default_rng(0).normal(size=(3, 5, 3)).astype(np.float32)
    flipped = NORMALS.flipped(normals, direction)
    expected = np.flip(normals, axis).copy()
    expected[..., channel] = -expected[..., channel]
    np.testing.assert_array_equal(flipped, expected)
    np.testing.assert_array_equal(NORMALS.flipped(flipped, direction), normals), "twice is none"


def test_a_channel_has_its_own_padding():
    colours = Geometry(padding=(1.0, 2.0))
    padded = colours.padded(np.zeros((2, 2, 2), np.float32), (3, 2))
    assert padded.shape == (3, 2, 2) and (padded[2] == [1, 2]).all() and not padded[:2].any()
    single = Geometry(interpolation="bilinear").resized(np.ones((2, 2, 1), np.float32), (5, 3))
    assert single.shape == (5, 3, 1)


def test_all_maps_of_an_image_go_the_same_way():
    """Depth and normals hold the pixel's place, as the labels do; whatever is drawn, they agree."""
    rows, columns = np.mgrid[:40, :48].astype(np.float32)
    normals = np.stack([columns - 23.5, rows, columns * 0], axis=-1)
    labels = (columns // 12).astype(np.uint8)
    maps = {
        "normals": Map(normals, Geometry(padding=(0.0, 9.0, 9.0), negated_x=(0,))),
        "sem_seg": Map(labels, Geometry(padding=255, labels=True)),
        "place": Map(columns, Geometry(padding=-1.0)),
    }
    augment = TrainAugmentation(crop=Crop(kind="absolute", size=(33, 60)))
    image = np.zeros((40, 48, 3), np.uint8)
    turned = 0
    for seed in range(12):
        _, found = augment(image, maps, np.random.default_rng(seed))
        known = found["sem_seg"] != 255
        assert known.sum() == 33 * 48
        np.testing.assert_array_equal(found["place"][known] // 12, found["sem_seg"][known])
        assert (found["place"][~known] == -1).all() and (found["normals"][~known] == [0, 9, 9]).all()
        flipped = found["place"][0][known[0]][0] > 0
        sign = -1 if flipped else 1
        np.testing.assert_array_equal(found["normals"][known][:, 0], sign * (found["place"][known] - 23.5))
        turned += int(flipped)
    assert 2 < turned < 10


def test_further_maps_draw_no_numbers():
    """The image is the same whatever is read beside it: with the labels, whose classes limit the crop."""
    labels = np.random.default_rng(0).integers(0, 3, (40, 48), np.uint8)
    sem_seg = Map(labels, Geometry(padding=255, labels=True))
    depth = Map(labels.astype(np.float32), DEPTH)
    image = np.repeat(labels[..., None], 3, axis=2)
    crop = Crop(kind="absolute", size=(8, 8), single_category_max_area=0.4)
    augment = TrainAugmentation(short_sides=(30, 60), sampling="range", crop=crop, color=True)
    for seed in range(10):
        alone, _ = augment(image, {"sem_seg": sem_seg}, np.random.default_rng(seed))
        beside, _ = augment(image, {"depth": depth, "sem_seg": sem_seg}, np.random.default_rng(seed))
        np.testing.assert_array_equal(alone, beside)


def test_refusals():
    with pytest.raises(ValueError, match=r"padding is \(9.0, 0.0\).*here \[0\], are padded with 0"):
        Geometry(padding=(9.0, 0.0), negated_x=(0,))
    with pytest.raises(ValueError, match=r"interpolation is 'cubic'; choose one of nearest, bilinear"):
        Geometry(interpolation="cubic")


def test_what_is_large_enough_is_not_copied():
    values = np.ones((3, 4), np.float32)
    assert Geometry(padding=0.0).padded(values, (3, 4)) is values
    assert Geometry(padding=0.0).padded(values, (2, 3)) is values
