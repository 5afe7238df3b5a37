"""Augmentation: sizes as Detectron2's, crops within their limits, colours within SSD's ranges, padding void."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from scaleeq.config import add_scaleeq_config
from scaleeq.data import augmentation as aug
from scaleeq.data.augmentation import Crop, TrainAugmentation
from scaleeq.engine import get_cfg
from scaleeq.geometry import Geometry, Map

LABELS = Geometry(padding=255, labels=True)
IMAGE_PADDING = Geometry(interpolation="bilinear", padding=(9, 99, 200))


def augmented(augment, image, labels, rng, *, ignore_label=255):
    """Image and labels, augmented together."""
    geometry = Geometry(padding=ignore_label, labels=True)
    image, maps = augment(image, {"sem_seg": Map(labels, geometry)}, rng)
    return image, maps["sem_seg"]


def pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 8, (height, width), np.uint8)


def test_resized_shape_as_in_detectron2():
    transforms = pytest.importorskip("detectron2.data.transforms")
    for height, width, short, longest in [(360, 480, 180, 9999), (480, 361, 700, 800), (37, 91, 64, 100), (5, 5, 9, 9)]:
        expected = transforms.ResizeShortestEdge.get_output_shape(height, width, short, longest)
        assert aug.resized_shape((height, width), short, longest) == expected


def test_short_side_0_keeps_the_size_whatever_the_limit():
    assert aug.resized_shape((360, 480), 0, 100) == (360, 480)


def test_random_scale_of_a_range_reaches_half_and_double():
    random_scale = TrainAugmentation(short_sides=(64, 256), sampling="range", flip="none")
    rng = np.random.default_rng(0)
    sides = [min(augmented(random_scale, *pair(128, 160), rng)[1].shape) for _ in range(300)]
    assert 64 <= min(sides) < 70 and 250 < max(sides) <= 256
    assert np.mean(sides) == pytest.approx(160, abs=10)


def test_a_range_of_crops_may_be_one_size():
    crop = Crop(kind="absolute_range", size=(32, 32))
    assert tuple(aug.draw_crop_shape((100, 80), crop, np.random.default_rng(0))) == (32, 32)


def test_a_range_has_both_of_its_ends():
    rng = np.random.default_rng(0)
    assert {aug.draw_short_side((3, 5), "range", rng) for _ in range(60)} == {3, 4, 5}


def test_choice_takes_only_the_given_sizes():
    rng = np.random.default_rng(0)
    assert {aug.draw_short_side((3, 9, 27), "choice", rng) for _ in range(60)} == {3, 9, 27}


@pytest.mark.parametrize("shape", [(31, 80), (74, 20), (148, 200), (37, 50)])
def test_labels_are_resized_to_the_label_under_the_centre(shape):
    """By the closed form floor((i + 1/2) * size / new size); a label that was not there never appears."""
    labels = np.random.default_rng(0).choice(np.array([0, 7, 255], np.uint8), (37, 50))
    rows, columns = (((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(shape, (37, 50), strict=True))
    np.testing.assert_array_equal(LABELS.resized(labels, shape), labels[rows][:, columns])


def test_images_are_resized_as_torch_does():
    """Bilinear without corners aligned, at OpenCV's precision of one grey level."""
    image = pair(37, 50)[0]
    for shape in [(31, 80), (74, 20)]:
        planes = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
        expected = (
            torch.nn.functional.interpolate(planes, shape, mode="bilinear", align_corners=False)[0]
            .permute(1, 2, 0)
            .numpy()
        )
        assert np.abs(aug.IMAGE.resized(image, shape) - expected).max() <= 1


def test_image_and_labels_keep_together():
    """The image's channels are the label: wherever crop and flip go, they still agree; scaling up keeps the centres."""
    labels = (np.arange(40)[:, None] // 10 * 4 + np.arange(48)[None] // 12).astype(np.uint8)
    image = np.repeat(labels[..., None], 3, axis=2)
    augment = TrainAugmentation(
        short_sides=(40, 80), crop=Crop(kind="absolute", size=(33, 35)), pad_color=(255,) * 3, flip="horizontal"
    )
    rng = np.random.default_rng(0)
    flipped = 0
    for _ in range(30):
        new_image, new_labels = augmented(augment, image, labels, rng)
        assert new_labels.shape == (33, 35)
        # Bilinear values at a border lie between two labels; away from borders they are the label.
        same = new_image[..., 0] == new_labels
        assert same.mean() > 0.8
        flipped += int(new_labels[0, 0]) > int(new_labels[0, -1])
    assert 5 < flipped < 25
    assert set(np.unique(image)) == set(range(16)), "the arguments are not changed"


@pytest.mark.parametrize(("flip", "axis"), [("horizontal", 1), ("vertical", 0)])
def test_flip(flip, axis):
    image, labels = pair(5, 6)
    augment = TrainAugmentation(flip=flip)
    results = [augmented(augment, image, labels, np.random.default_rng(seed)) for seed in range(40)]
    turned = [(new_labels == np.flip(labels, axis)).all() for _, new_labels in results]
    assert 8 < sum(turned) < 32
    for (new_image, new_labels), is_turned in zip(results, turned, strict=True):
        np.testing.assert_array_equal(new_image, np.flip(image, axis) if is_turned else image)
        np.testing.assert_array_equal(new_labels, np.flip(labels, axis) if is_turned else labels)


def test_crops_cover_all_positions():
    labels = pair(6, 7)[1]
    rng = np.random.default_rng(0)
    corners = {aug.draw_crop(labels, (4, 4), 1.0, 255, rng) for _ in range(300)}
    assert corners == {(top, left) for top in range(3) for left in range(4)}


@pytest.mark.parametrize(
    ("kind", "size", "low", "high"),
    [
        ("absolute", (30, 20), (30, 20), (30, 20)),
        ("relative", (0.5, 0.25), (50, 20), (50, 20)),
        ("relative_range", (0.5, 0.25), (50, 20), (100, 80)),
        ("absolute_range", (30, 90), (30, 30), (90, 80)),
    ],
)
def test_crop_shapes_reach_their_limits(kind, size, low, high):
    rng = np.random.default_rng(0)
    shapes = np.array([aug.draw_crop_shape((100, 80), Crop(kind=kind, size=size), rng) for _ in range(500)])
    slack = 2
    assert (shapes >= low).all() and (shapes <= high).all()
    assert (shapes.min(axis=0) <= np.add(low, slack)).all() and (shapes.max(axis=0) >= np.subtract(high, slack)).all()


def test_category_limit():
    """Left half one class, right half mixed: with the limit, windows of one class are drawn only by ten failures."""
    labels = pair(40, 80)[1]
    labels[:, :40] = 3
    shares = {}
    for max_area in (1.0, 0.75):
        rng = np.random.default_rng(0)
        shares[max_area] = []
        for _ in range(200):
            top, left = aug.draw_crop(labels, (20, 20), max_area, 255, rng)
            shares[max_area].append((labels[top : top + 20, left : left + 20] == 3).mean())
    assert max(shares[1.0]) == 1
    assert max(shares[0.75]) < 0.75


def test_category_limit_does_not_count_void_and_gives_up_after_ten_tries():
    labels = np.full((30, 30), 255, np.uint8)
    labels[::3] = 1
    labels[1::3] = 2  # each class has half of what is not void

    class CountingGenerator(np.random.Generator):
        draws = 0

        def integers(self, *args, **kwargs):
            type(self).draws += 1
            return super().integers(*args, **kwargs)

    def draws_until_accepted(max_area: float) -> int:
        CountingGenerator.draws = 0
        aug.draw_crop(labels, (12, 12), max_area, 255, CountingGenerator(np.random.PCG64(0)))
        return CountingGenerator.draws // 2

    assert draws_until_accepted(0.51) == 1
    assert draws_until_accepted(0.5) == 10, "exactly the limit is too much, as in DeepLab"
    labels[:] = 255
    assert draws_until_accepted(0.75) == 10, "nothing but void"


def test_small_images_are_padded_with_void_at_the_bottom_right():
    image, labels = pair(20, 30)
    augment = TrainAugmentation(crop=Crop(kind="absolute", size=(32, 24)), flip="none", pad_color=(123.7, 116.3, 103.5))
    new_image, new_labels = augmented(augment, image, labels, np.random.default_rng(0), ignore_label=254)
    assert new_image.shape == (32, 24, 3) and new_labels.shape == (32, 24)
    assert (new_labels[20:] == 254).all() and (new_labels[:20] < 8).all()
    assert (new_image[20:] == (124, 116, 104)).all()
    window = [left for left in range(7) if (labels[:, left : left + 24] == new_labels[:20]).all()]
    assert len(window) == 1
    np.testing.assert_array_equal(new_image[:20], image[:, window[0] : window[0] + 24])


def test_levels_are_clipped_and_exact():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    expected = np.clip(np.rint(np.arange(256) * 1.5 - 20.25), 0, 255)
    np.testing.assert_array_equal(aug.adjust_levels(image, 1.5, -20.25)[..., 0].ravel(), expected)


def test_saturation_and_hue_against_colorsys():
    """colorsys is the oracle; OpenCV's 8-bit hue is in steps of two degrees, hence a few grey levels."""
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (8, 8, 3), np.uint8)
    for factor, shift in ((0.5, 0), (1.5, 0), (1.0, 18), (0.7, -9)):
        expected = []
        for pixel in image.reshape(-1, 3) / 255:
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected.append(colorsys.hsv_to_rgb((hue + shift / 180) % 1, min(1, saturation * factor), value))
        result = aug.adjust_saturation_hue(image, factor, shift).reshape(-1, 3)
        assert np.abs(result - 255 * np.array(expected)).max() < 6


def test_colours_stay_within_ssds_ranges():
    """A grey image has no saturation or hue: its level v may reach [0.5 (v - 32), 1.5 (v + 32)] and nothing beyond."""
    level = 100
    image = np.full((4, 4, 3), level, np.uint8)
    results = np.array([aug.jitter_colors(image, np.random.default_rng(seed))[0, 0, 0] for seed in range(800)])
    low, high = 0.5 * (level - 32), 1.5 * (level + 32)
    assert low - 1 <= results.min() < low + 10 and high - 20 < results.max() <= high + 1
    assert (results == level).mean() == pytest.approx(0.25, abs=0.06), "neither brightness nor contrast: 1/4"


def test_colours_do_not_touch_the_argument_and_need_no_contiguous_image():
    image = pair(9, 9)[0]
    before = image.copy()
    for seed in range(10):
        flipped = aug.jitter_colors(image[:, ::-1], np.random.default_rng(seed))
        np.testing.assert_array_equal(flipped, aug.jitter_colors(image, np.random.default_rng(seed))[:, ::-1])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TrainAugmentation(flip="sideways"), "INPUT.RANDOM_FLIP is 'sideways'.*horizontal"),
        (lambda: TrainAugmentation(sampling="uniform"), "MIN_SIZE_TRAIN_SAMPLING is 'uniform'.*range"),
        (lambda: TrainAugmentation(short_sides=(1, 2, 3), sampling="range"), r"\(1, 2, 3\)"),
        (lambda: TrainAugmentation(short_sides=()), "MIN_SIZE_TRAIN"),
        (lambda: Crop(kind="square", size=(1, 1)), "INPUT.CROP.TYPE is 'square'.*absolute"),
        (lambda: Crop(kind="relative", size=(2, 2)), r"\(0, 1\].*\(2, 2\)"),
        (lambda: Crop(kind="absolute", size=(64,)), "two sizes"),
        (lambda: Crop(kind="absolute", size=(64, 64), single_category_max_area=1.5), "SINGLE_CATEGORY_MAX_AREA.*1.5"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_padding_is_not_jittered(flip, image_format):
    """Padding is one colour, zero to the model up to rounding.

    Oracle for the rest: labels are padded first, so that the draws are those of a window in a padded image; the image
    below the labels that are none of the padding is jittered.
    """
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.INPUT.COLOR_AUG_SSD, cfg.INPUT.RANDOM_FLIP, cfg.INPUT.FORMAT = True, flip, image_format
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (20, 40), "range"
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", (32, 48)
    augmentation = aug.TrainAugmentation.from_config(cfg)
    mean = np.array(cfg.MODEL.PIXEL_MEAN)[:: 1 if image_format == "RGB" else -1]
    image, labels = pair(30, 40)
    padded = 0
    for seed in range(40):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        ours, our_labels = augmented(augmentation, image, labels, rng)
        theirs, their_labels = window_in_padded(augmentation, image, labels, again)
        np.testing.assert_array_equal(our_labels, their_labels)
        assert rng.bit_generator.state == again.bit_generator.state
        void = our_labels == 255
        np.testing.assert_array_equal(ours[~void], theirs[~void])
        padded += void.sum()
        assert (np.abs(ours[void] - mean) <= 0.5).all()
    assert padded > 1000


def window_in_padded(augmentation, image, labels, rng):
    shape = aug.resized_shape(labels.shape, aug.draw_short_side(augmentation.short_sides, "range", rng), 1 << 30)
    image, labels = aug.IMAGE.resized(image, shape), LABELS.resized(labels, shape)
    shape = aug.draw_crop_shape(labels.shape, augmentation.crop, rng)
    image, labels = IMAGE_PADDING.padded(image, shape), LABELS.padded(labels, shape)
    top, left = aug.draw_crop(labels, shape, augmentation.crop.single_category_max_area, 255, rng)
    window = (slice(top, top + shape[0]), slice(left, left + shape[1]))
    image, labels = image[window], labels[window]
    rows, columns = (labels != 255).any(1).sum(), (labels != 255).any(0).sum()
    image[:rows, :columns] = aug.jitter_colors(image[:rows, :columns].copy(), rng)
    if augmentation.flip != "none" and rng.random() < 0.5:
        axis = 1 if augmentation.flip == "horizontal" else 0
        image, labels = np.flip(image, axis), np.flip(labels, axis)
    return image, labels
