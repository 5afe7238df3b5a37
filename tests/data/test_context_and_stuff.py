"""Pascal-Context and COCO-Stuff-10K: tables of classes, and the layouts that other people's scripts make.

What our own conversion makes is read in test_preparation.py. Oracles: rows of the authors' lists, literal here; the
arrays that the files were written from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scaleeq.data.reading import read_labels
from scaleeq.data.sets import coco_stuff, pascal_context
from scaleeq.engine import DatasetCatalog, MetadataCatalog
from tests.data.official_files import write_coco_stuff_v11, write_image, write_lines, write_picture


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def single_labels(dataset: str) -> np.ndarray:
    (record,) = DatasetCatalog.get(dataset)
    return read_labels(record, num_classes=len(MetadataCatalog.get(dataset).stuff_classes))


def test_classes_of_pascal_context():
    with_background, without = (MetadataCatalog.get(f"pascal_context_{n}_sem_seg_val") for n in (60, 59))
    assert with_background.stuff_classes[1:] == without.stuff_classes
    assert with_background.stuff_colors[1:] == without.stuff_colors
    assert len(set(with_background.stuff_classes)) == len(set(with_background.stuff_colors)) == 60
    ids = dict(zip(pascal_context.CLASSES_60, pascal_context.CATEGORY_IDS, strict=True))
    assert list(ids.values()) == sorted(set(ids.values()))
    # From the list of the 459 categories.
    official = {"background": 0, "aeroplane": 2, "bag": 9, "bottle": 34, "fence": 144, "person": 284, "wood": 458}
    assert {name: ids[name] for name in official} == official


@pytest.mark.parametrize("base", ["VOCdevkit/VOC2010", "pascal_ctx/VOCdevkit/VOC2010", "data/VOCdevkit/VOC2010"])
def test_pascal_context(root, base):
    labels = np.arange(60, dtype=np.uint8).reshape(6, 10)
    write_image(root / base / "JPEGImages" / "2008_000002.jpg", 6, 10)
    write_image(root / base / "JPEGImages" / "2008_999999.jpg", 6, 10)
    write_picture(root / base / "SegmentationClassContext" / "2008_000002.png", labels)
    write_lines(root / base / "ImageSets" / "SegmentationContext" / "val.txt", ["2008_000002"])
    np.testing.assert_array_equal(single_labels("pascal_context_60_sem_seg_val"), labels)
    np.testing.assert_array_equal(
        single_labels("pascal_context_59_sem_seg_val"), np.array([255, *range(59)]).reshape(6, 10)
    )
    with pytest.raises(FileNotFoundError, match=r"train.txt"):
        DatasetCatalog.get("pascal_context_60_sem_seg_train")


def test_a_background_taken_away_twice_is_refused(root):
    base = root / "VOCdevkit" / "VOC2010"
    write_image(base / "JPEGImages" / "a.jpg", 1, 3)
    write_picture(base / "SegmentationClassContext" / "a.png", np.array([[255, 1, 58]], np.uint8))
    write_lines(base / "ImageSets" / "SegmentationContext" / "val.txt", ["a"])
    with pytest.raises(ValueError, match=r"254"):
        single_labels("pascal_context_59_sem_seg_val")


def test_unprepared_pascal_context_says_what_to_do(root):
    write_image(root / "VOCdevkit" / "VOC2010" / "JPEGImages" / "a.jpg", 1, 3)
    with pytest.raises(FileNotFoundError, match=r"scaleeq data prepare pascal-context"):
        DatasetCatalog.get("pascal_context_59_sem_seg_train")
    with pytest.raises(ValueError, match=r"59 classes, or 60 .*, not 459"):
        pascal_context.load_pascal_context("val", 459)
    with pytest.raises(ValueError, match=r"split of Pascal-Context is 'test'"):
        pascal_context.load_pascal_context("test", 59)


def test_classes_of_coco_stuff():
    metadata = MetadataCatalog.get("coco_stuff_10k_v11_sem_seg_test")
    assert len(set(metadata.stuff_classes)) == len(set(metadata.stuff_colors)) == 171
    # From cocostuff-labels.txt, less the unused ids before them (11 of the things).
    rows = {0: "person", 10: "fire hydrant", 11: "stop sign", 60: "dining table", 79: "toothbrush", 80: "banner"}
    rows |= {98: "desk-stuff", 100: "door-stuff", 121: "mirror-stuff", 170: "wood"}
    assert {label: metadata.stuff_classes[label] for label in rows} == rows
    assert MetadataCatalog.get("coco_stuff_10k_v10_sem_seg_train").stuff_classes == metadata.stuff_classes


def write_stuff_pair(images: Path, labels: Path, values: np.ndarray, suffix: str) -> None:
    write_image(images / "COCO_train2014_000000000077.jpg", *values.shape)
    write_picture(labels / f"COCO_train2014_000000000077{suffix}", values)


def test_maskformers_pictures_are_v10(root):
    base = root / "coco" / "coco_stuff_10k"
    labels = np.array([*range(171), 255], np.uint8).reshape(4, 43)
    write_stuff_pair(base / "images_detectron2" / "test", base / "annotations_detectron2" / "test", labels, ".png")
    np.testing.assert_array_equal(single_labels("coco_stuff_10k_v10_sem_seg_test"), labels)


def test_mmsegmentations_pictures_are_v11_and_begin_at_1(root):
    base = root / "coco_stuff10k"
    values = np.arange(172, dtype=np.uint8).reshape(4, 43)
    images, labels = base / "images" / "train2014", base / "annotations" / "train2014"
    write_stuff_pair(images, labels, values, "_labelTrainIds.png")
    expected = np.array([255, *range(171)]).reshape(4, 43)
    np.testing.assert_array_equal(single_labels("coco_stuff_10k_v11_sem_seg_train"), expected)
    write_stuff_pair(images, labels, np.full((1, 3), 255, np.uint8), "_labelTrainIds.png")
    with pytest.raises(ValueError, match=r"254"):
        single_labels("coco_stuff_10k_v11_sem_seg_train")


@pytest.mark.parametrize("version", ["v10", "v11"])
def test_the_archives_files_alone_say_what_to_do(root, version):
    base = root / "coco_stuff10k"
    write_coco_stuff_v11(base / "annotations" / "a.mat", np.zeros((2, 3), np.uint8))
    write_image(base / "images" / "a.jpg", 2, 3)
    write_lines(base / "imageLists" / "train.txt", ["a"])
    with pytest.raises(FileNotFoundError, match=r"scaleeq data prepare coco-stuff-10k"):
        DatasetCatalog.get(f"coco_stuff_10k_{version}_sem_seg_train")
    with pytest.raises(ValueError, match=r"version of COCO-Stuff-10K is 'v12'"):
        coco_stuff.load_coco_stuff("v12", "train")
