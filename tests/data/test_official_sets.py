"""ADE20K, VOC 2012 and Cityscapes: small files in the official formats, read through the catalog; tables of classes.

Oracles: cityscapesscripts; the official tables, where a few of their rows are literal here; checksums of the tables
of mmsegmentation 1.2.2; the values that the files were written with.
"""

from __future__ import annotations

import builtins
import zlib

import numpy as np
import pytest
from cityscapesscripts.helpers import labels as official_cityscapes
from PIL import Image

from scaleeq.data.mapper import SegmentationMapper
from scaleeq.data.reading import read_labels
from scaleeq.data.sets import ade20k, cityscapes, voc2012
from scaleeq.engine import DatasetCatalog, MetadataCatalog

from .layout_files import write_ade20k, write_cityscapes, write_voc

NAMES = [
    *(f"ade20k_150_{split}" for split in ("train", "val", "test")),
    *(f"voc2012_sem_seg_{split}" for split in ("train", "trainaug", "val", "test")),
    *(f"cityscapes_sem_seg_{split}" for split in ("train", "val", "test")),
    *(f"cityscapes_coarse_sem_seg_{split}" for split in ("train", "train_extra", "val")),
]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


# ---------------------------------------------------------------------------------------------------- ADE20K


def test_ade20k(root):
    raw = np.arange(151, dtype=np.uint8).reshape(1, 151)
    for name in ("ADE_train_00000002", "ADE_train_00000001"):
        write_ade20k(root, "training", name, raw)
    write_ade20k(root, "validation", "ADE_val_00000001", raw[:, :20])
    records = DatasetCatalog.get("ade20k_150_train")
    assert [record["image_id"] for record in records] == ["ADE_train_00000001", "ADE_train_00000002"]
    labels = read_labels(records[0], num_classes=150)
    assert labels[0, 0] == 255
    assert labels[0, 1:].tolist() == list(range(150))
    (val,) = DatasetCatalog.get("ade20k_150_val")
    sample = SegmentationMapper(num_classes=150)(val)
    assert (sample["height"], sample["width"]) == (1, 20)
    assert sample["sem_seg_truth"][0, :3].tolist() == [255, 0, 1]


@pytest.mark.parametrize("value", [151, 255])
def test_ade20k_labels_that_are_reduced_already_or_foreign_are_refused(root, value):
    write_ade20k(root, "validation", "ADE_val_00000001", np.full((2, 2), value, np.uint8))
    (record,) = DatasetCatalog.get("ade20k_150_val")
    with pytest.raises(ValueError, match=r"ADE_val_00000001.png are neither"):
        read_labels(record, num_classes=150)


def test_ade20k_table():
    """Rows of objectInfo150.txt and color150 as published, by index; all names differ."""
    assert len(set(ade20k.CLASSES)) == len(ade20k.COLORS) == 150
    official = {
        0: "wall",
        7: "bed",
        12: "person",
        44: "chest of drawers",
        58: "screen door",
        130: "screen",
        149: "flag",
    }
    assert {index: ade20k.CLASSES[index] for index in official} == official
    assert (ade20k.COLORS[0], ade20k.COLORS[12], ade20k.COLORS[149]) == ((120,) * 3, (150, 5, 61), (92, 0, 255))


# ---------------------------------------------------------------------------------------------------- VOC 2012


def test_voc2012(root):
    labels = np.array([[0, 1, 20, 255]], np.uint8)
    write_voc(root, "SegmentationClass", "train", {"2007_000032": labels}, palette=True)
    write_voc(root, "SegmentationClass", "val", {"2007_000033": labels, "2007_000031": labels}, palette=True)
    train, val = (DatasetCatalog.get(f"voc2012_sem_seg_{split}") for split in ("train", "val"))
    assert [record["image_id"] for record in val] == ["2007_000033", "2007_000031"]  # the list's order
    with Image.open(train[0]["sem_seg_file_name"]) as file:
        assert file.mode == "P"
    assert read_labels(train[0], num_classes=21).tolist() == [[0, 1, 20, 255]]


def test_voc_colors():
    """Labels and colours of VOC's development kit."""
    official = {0: (0, 0, 0), 1: (128, 0, 0), 4: (0, 0, 128), 9: (192, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {label: voc2012.COLORS[label] for label in official} == official
    assert voc2012.voc_color(255) == (224, 224, 192)
    assert (voc2012.CLASSES[0], voc2012.CLASSES[15], voc2012.CLASSES[20]) == ("background", "person", "tvmonitor")


# ---------------------------------------------------------------------------------------------------- Cityscapes


def test_cityscapes(root):
    write_cityscapes(root, "train", "ulm", "000001", np.arange(34, dtype=np.uint8).reshape(2, 17))
    write_cityscapes(root, "train", "bochum", "000000", np.zeros((2, 4), np.uint8))
    write_cityscapes(root, "test", "berlin", "000000", np.zeros((2, 4), np.uint8))
    records = DatasetCatalog.get("cityscapes_sem_seg_train")
    assert [record["image_id"] for record in records] == ["bochum_000000_000019", "ulm_000001_000019"]
    trained = {label.id: label.trainId for label in official_cityscapes.labels}
    expected = [trained[label_id] for label_id in range(34)]
    assert read_labels(records[1], num_classes=19).ravel().tolist() == expected
    (test,) = DatasetCatalog.get("cityscapes_sem_seg_test")
    sample = SegmentationMapper(num_classes=19)(test)
    assert sample["height"] == 2 and "sem_seg_truth" not in sample


def test_cityscapes_table():
    official = official_cityscapes.trainId2label
    assert tuple(official[label].name for label in range(19)) == cityscapes.CLASSES
    assert tuple(official[label].color for label in range(19)) == cityscapes.COLORS


# ---------------------------------------------------------------------------------------------------- all


# Number, CRC-32 of the comma-separated names and of the colours' bytes in METAINFO of mmsegmentation 1.2.2's ade.py,
# voc.py and cityscapes.py (a blank after ADE20K's "bed" aside).
MMSEGMENTATION = {
    ade20k: (150, 3338853938, 3620555175),
    voc2012: (21, 2660615437, 342104821),
    cityscapes: (19, 2271104209, 2656065188),
}


@pytest.mark.parametrize("module", MMSEGMENTATION, ids=lambda module: module.__name__.split(".")[-1])
def test_names_and_colors_are_those_that_everybody_uses(module):
    names, colors = ",".join(module.CLASSES).encode(), bytes(np.array(module.COLORS, np.uint8))
    assert (len(module.CLASSES), zlib.crc32(names), zlib.crc32(colors)) == MMSEGMENTATION[module]


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_root_is_named_with_the_way_out(root, name):
    with pytest.raises(FileNotFoundError, match=f"(?s){root}.*missing.*DETECTRON2_DATASETS"):
        DatasetCatalog.get(name)


@pytest.mark.parametrize("name", NAMES)
def test_metadata(name):
    metadata = MetadataCatalog.get(name)
    number = {"ade20k": 150, "voc2012": 21, "cityscapes": 19}[name.split("_")[0]]
    assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == number
    assert metadata.ignore_label == 255 and metadata.evaluator_type == "sem_seg"
    assert metadata.family == name.split("_")[0]


def test_missing_files_are_counted_and_named(root):
    labels = np.ones((2, 2), np.uint8)
    for number in range(3):
        write_ade20k(root, "training", f"ADE_train_0000000{number}", labels)
    (root / "ADEChallengeData2016" / "annotations" / "training" / "ADE_train_00000001.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 3 images have no labels.*training.ADE_train_00000001.jpg.*_00000001.png"
    ):
        DatasetCatalog.get("ade20k_150_train")
    write_voc(root, "SegmentationClass", "val", {"a": labels}, palette=True)
    (root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"JPEGImages.a.jpg"):
        DatasetCatalog.get("voc2012_sem_seg_val")
    with pytest.raises(FileNotFoundError, match=r"the list .*train.txt"):
        DatasetCatalog.get("voc2012_sem_seg_train")
    with pytest.raises(FileNotFoundError, match=r"no image .*val/\*/\*_leftImg8bit.png"):
        write_cityscapes(root, "val", "ulm", "000001", labels)
        (root / "cityscapes/leftImg8bit/val/ulm/ulm_000001_000019_leftImg8bit.png").unlink()
        DatasetCatalog.get("cityscapes_sem_seg_val")


@pytest.mark.parametrize("load", [ade20k.load_ade20k, voc2012.load_voc2012, cityscapes.load_cityscapes])
def test_unknown_splits_are_refused(load, tmp_path):
    with pytest.raises(ValueError, match="'training'"):
        load("training", str(tmp_path))


def test_no_image_is_opened_at_the_start(root, monkeypatch):
    write_ade20k(root, "training", "ADE_train_00000001", np.ones((2, 2), np.uint8))
    write_cityscapes(root, "val", "lindau", "000000", np.ones((2, 2), np.uint8))

    def refuse(*arguments, **options):
        raise AssertionError(f"opened {arguments}")

    monkeypatch.setattr(builtins, "open", refuse)
    assert len(DatasetCatalog.get("ade20k_150_train")) == len(DatasetCatalog.get("cityscapes_sem_seg_val")) == 1
