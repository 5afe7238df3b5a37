"""Reading: palettes, orientation, order of channels, and what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from PIL import Image

from scaleeq.data.reading import has_labels, read_image, read_labels, read_pair
from scaleeq.data.sets import toy

LABELS = np.arange(24, dtype=np.uint8).reshape(4, 6)


def save(tmp_path, array: np.ndarray, name: str = "labels.png") -> dict:
    Image.fromarray(array).save(tmp_path / name)
    return {"file_name": "image.png", "sem_seg_file_name": str(tmp_path / name)}


def test_palette_picture_is_read_as_indexes(tmp_path):
    picture = Image.fromarray(LABELS)
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    picture.save(tmp_path / "palette.png")
    assert Image.open(tmp_path / "palette.png").mode == "P"
    record = {"file_name": "image.png", "sem_seg_file_name": str(tmp_path / "palette.png")}
    np.testing.assert_array_equal(read_labels(record), LABELS)


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint8, "png"), (np.uint16, "png"), (np.int32, "tif")])
def test_depths(tmp_path, dtype, suffix):
    labels = read_labels(save(tmp_path, LABELS.astype(dtype), f"labels.{suffix}"))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, LABELS)


def test_colour_pictures_and_large_values_are_no_labels(tmp_path):
    with pytest.raises(ValueError, match=r"labels.png.*3 channels.*picture for people"):
        read_labels(save(tmp_path, np.arange(72, dtype=np.uint8).reshape(4, 6, 3)))
    with pytest.raises(ValueError, match=r"labels.png.*1000"):
        read_labels(save(tmp_path, np.full((4, 6), 1000, np.uint16)))


def test_undeclared_labels_are_refused_by_name(tmp_path):
    record = save(tmp_path, LABELS)
    assert read_labels(record, num_classes=24).max() == 23
    with pytest.raises(ValueError, match=r"\[22, 23\] in .*labels.png"):
        read_labels(record, num_classes=22)
    with pytest.raises(ValueError, match=r"\[22\] in .*labels.png"):
        read_labels(record, num_classes=22, ignore_label=23)


@pytest.mark.parametrize(
    ("values", "num_classes", "ignore_label", "message"),
    [
        ([1, 2, 3, 4], 4, 255, r"start at 1.*label_map.*0: 255"),
        ([0, 1, 4], 4, 255, r"NUM_CLASSES to 5.*label_map \(\{4: 255\}\)"),  # CamVid's 11, or VOC without background
        ([0, 3, 255], 4, 200, r"IGNORE_VALUE.*to 255"),
        ([0, 29, 76, 105, 128, 149, 150, 178, 200, 226], 4, 255, r"grey levels or colours"),
        ([0, 1, 254], 4, 255, r"minus one.*original labels"),
        ([0, 1, 5, 6], 4, 255, r"NUM_CLASSES that of this data set.*label_map"),
    ],
)
def test_undeclared_labels_are_explained(tmp_path, values, num_classes, ignore_label, message):
    record = save(tmp_path, np.resize(np.array(values, np.uint8), (4, 6)))
    with pytest.raises(ValueError, match=message):
        read_labels(record, num_classes=num_classes, ignore_label=ignore_label)


def test_label_map_translates_all_values_at_once(tmp_path):
    record = save(tmp_path, LABELS) | {"label_map": {0: 255, 1: 0, 2: 1}}
    assert read_labels(record).ravel()[:4].tolist() == [255, 0, 1, 3]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_in_detectron2(tmp_path, orientation):
    utils = pytest.importorskip("detectron2.data.detection_utils")
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    record = {"file_name": str(tmp_path / "turned.png")}
    for image_format in ("RGB", "BGR"):
        expected = utils.read_image(record["file_name"], image_format)
        np.testing.assert_array_equal(read_image(record, image_format), expected)
    assert read_image(record).shape == ((6, 4, 3) if orientation >= 5 else (4, 6, 3))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_other_modes_become_rgb(tmp_path, mode):
    Image.fromarray(np.full((4, 6), 77, np.uint8)).convert(mode).save(tmp_path / "image.png")
    assert (read_image({"file_name": str(tmp_path / "image.png")}) == 77).all()


def test_generated_scenes_need_no_file():
    record = {"file_name": "toy/val/0005.png", "read": functools.partial(toy.render_scene, split="val", index=5)}
    image, labels = toy.render_scene("val", 5)
    np.testing.assert_array_equal(read_image(record), image)
    np.testing.assert_array_equal(read_image(record, "BGR"), image[:, :, ::-1])
    np.testing.assert_array_equal(read_labels(record, num_classes=8), labels)
    for ours, expected in zip(read_pair(record, num_classes=8), (image, labels), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert has_labels(record) and not has_labels({"file_name": "a.png"})


def test_image_and_labels_of_two_sizes_are_refused(tmp_path):
    record = save(tmp_path, LABELS)
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "image.png")
    record["file_name"] = str(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"image.png is \(4, 5\).*labels.png are \(4, 6\)"):
        read_pair(record, num_classes=24)


def test_unknown_format_is_refused():
    with pytest.raises(ValueError, match=r"'YUV'.*RGB"):
        read_image({"file_name": "a.png"}, "YUV")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"labels.png cannot be read: it is empty \(0 bytes\).*again.*data check"),
        (b"<html>", r"labels.png cannot be read: it is not a picture, it starts with b'<html>'"),
        (b"MATLAB 5.0 MAT-file", r"labels.png .*MATLAB file.*data prepare"),
        (None, r"there is no file .*labels.png.*complete"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, message):
    path = tmp_path / "labels.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OSError, match=message):
        read_labels({"file_name": "image.png", "sem_seg_file_name": str(path)})


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_cut_off_picture_is_named(tmp_path, suffix, share):
    array = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(array).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(OSError, match=rf"image.{suffix} cannot be read: it seems to be cut off.*again"):
        read_image({"file_name": str(path)})


def test_two_sizes_that_are_turned_name_the_orientation(tmp_path):
    record = save(tmp_path, LABELS)
    Image.fromarray(np.zeros((6, 4, 3), np.uint8)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"image.png is \(6, 4\).*EXIF"):
        read_pair(record | {"file_name": str(tmp_path / "image.png")}, num_classes=24)
