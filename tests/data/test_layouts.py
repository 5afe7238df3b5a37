"""Every layout of a data set gives the same records and labels; what is not there is listed.

Oracle: the labels that the files were written with, in each layout's own encoding.
"""

from __future__ import annotations

import numpy as np
import pytest

from scaleeq.data.reading import read_labels
from scaleeq.data.sets import ade20k, cityscapes, voc2012
from scaleeq.data.sets.listing import Layout, files_by_name, load_layout
from scaleeq.engine import DatasetCatalog

from .layout_files import VOC, image, write, write_ade20k, write_cityscapes, write_list, write_voc


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def read(name: str, num_classes: int) -> dict[str, list]:
    return {r["image_id"]: read_labels(r, num_classes=num_classes).tolist() for r in DatasetCatalog.get(name)}


# ---------------------------------------------------------------------------------------------------- ADE20K

ADE_RAW = np.arange(151, dtype=np.uint8).reshape(1, 151)
ADE_LABELS = {f"ADE_val_{n:08}": [[255, *range(150)]] for n in (1, 2)}


@pytest.mark.parametrize("folder", ["annotations", "annotations_detectron2"])
@pytest.mark.parametrize("base", ["ADEChallengeData2016", "ade/ADEChallengeData2016", "data/ade/ADEChallengeData2016"])
def test_ade20k(root, base, folder):
    raw = ADE_RAW if folder == "annotations" else ADE_RAW - np.uint8(1)
    for name in ADE_LABELS:
        write_ade20k(root, "validation", name, raw, base=base, annotations=folder)
    assert read("ade20k_150_val", 150) == ADE_LABELS


def test_ade20k_as_hrnet_has_it(root):
    for name in ADE_LABELS:
        write(root / "ade20k" / "val" / "image" / f"{name}.jpg", image(*ADE_RAW.shape))
        write(root / "ade20k" / "val" / "label" / f"{name}.png", ADE_RAW)
    assert read("ade20k_150_val", 150) == ADE_LABELS


def test_ade20k_takes_the_original_labels_where_both_are(root):
    for folder, raw in (("annotations", ADE_RAW), ("annotations_detectron2", ADE_RAW - np.uint8(1))):
        write_ade20k(root, "validation", "ADE_val_00000001", raw, annotations=folder)
    (record,) = DatasetCatalog.get("ade20k_150_val")
    assert record["label_map"] == ade20k.LABEL_MAP and "annotations_detectron2" not in record["sem_seg_file_name"]


def test_ade20k_original_labels_in_the_folder_of_reduced_ones_are_refused(root):
    write_ade20k(root, "validation", "ADE_val_00000001", ADE_RAW, annotations="annotations_detectron2")
    with pytest.raises(ValueError, match=r"annotations_detectron2.*ADE_val_00000001.png"):
        read("ade20k_150_val", 150)


@pytest.mark.parametrize("place", ["release_test", "ADEChallengeData2016/release_test", "data/ade/release_test"])
def test_ade20k_to_test_on(root, place):
    write(root / place / "testing" / "ADE_test_00000001.jpg", image(2, 3))
    (record,) = DatasetCatalog.get("ade20k_150_test")
    assert record["image_id"] == "ADE_test_00000001" and "sem_seg_file_name" not in record


# ---------------------------------------------------------------------------------------------------- VOC 2012

BORDERED, SBD, VAL = (np.array([row], np.uint8) for row in ([0, 255, 20], [0, 20, 20], [3, 3, 255]))
TRAINAUG = {"2007_000032": BORDERED.tolist(), "2008_000002": SBD.tolist(), "2008_000008": SBD.tolist()}
SBD_LISTS = {"train": ["2008_000008", "2007_000032"], "val": ["2007_000033", "2008_000002"]}


@pytest.mark.parametrize("base", [VOC, f"data/{VOC}", "VOC2012"])
@pytest.mark.parametrize("labels", ["SegmentationClassAug", "../VOCaug/dataset/cls"])
@pytest.mark.parametrize("lists", ["trainaug.txt", "aug.txt", "../VOCaug/dataset", "../benchmark_RELEASE/dataset"])
def test_voc2012_trainaug(root, base, labels, lists):
    """VOC's labels where it has some, SBD's for the others, sorted, none of val: wherever SBD's are."""
    write_voc(root, "SegmentationClass", "train", {"2007_000032": BORDERED}, palette=True, base=base)
    write_voc(root, "SegmentationClass", "val", {"2007_000033": VAL}, palette=True, base=base)
    sbd = dict.fromkeys(["2008_000008", "2008_000002", "2007_000032", "2007_000033"], SBD)
    write_voc(root, labels, "", sbd, palette=False, base=base)
    sets = root / base / "ImageSets" / "Segmentation"
    if lists == "trainaug.txt":
        write_list(sets / lists, ["2008_000008", "2007_000032", "2008_000002"])
    elif lists == "aug.txt":
        write_list(sets / lists, ["2008_000008", "2008_000002"])
    else:
        for split, names in SBD_LISTS.items():
            write_list(root / base / lists / f"{split}.txt", names)
    found = read("voc2012_sem_seg_trainaug", 21)
    assert found == TRAINAUG and list(found) == sorted(found)
    assert read("voc2012_sem_seg_val", 21) == {"2007_000033": VAL.tolist()}


def test_voc2012_trainaug_finds_what_is_wrong(root):
    write_voc(root, "SegmentationClass", "train", {"2007_000032": BORDERED}, palette=True)
    write_voc(root, "SegmentationClass", "val", {"2007_000033": VAL}, palette=True)
    with pytest.raises(FileNotFoundError, match=r"(?s)SegmentationClassAug  .*missing.*data prepare voc2012-train"):
        DatasetCatalog.get("voc2012_sem_seg_trainaug")
    write_voc(root, "SegmentationClassAug", "", {"2008_000002": SBD}, palette=False)
    with pytest.raises(FileNotFoundError, match=r"trainaug.txt.*aug.txt.*VOCaug.*data prepare"):
        DatasetCatalog.get("voc2012_sem_seg_trainaug")
    write_list(root / VOC / "ImageSets" / "Segmentation" / "trainaug.txt", ["2008_000002", "2007_000033"])
    with pytest.raises(ValueError, match=r"trainaug.txt names 1 images of val, the first is 2007_000033"):
        DatasetCatalog.get("voc2012_sem_seg_trainaug")


def test_voc2012_to_test_on(root):
    write(root / VOC / "JPEGImages" / "2008_000006.jpg", image(2, 3))
    write_list(root / VOC / "ImageSets" / "Segmentation" / "test.txt", ["2008_000006"])
    (record,) = DatasetCatalog.get("voc2012_sem_seg_test")
    assert record["image_id"] == "2008_000006" and "sem_seg_file_name" not in record


# ---------------------------------------------------------------------------------------------------- Cityscapes

CITY_IDS = np.array([[7, 0, 33, 20, 26]], np.uint8)
CITY_LABELS = [[0, 255, 18, 7, 13]]
CITY_FILES = {"labelIds": CITY_IDS, "labelTrainIds": np.array(CITY_LABELS, np.uint8)}


@pytest.mark.parametrize("folder", ["", "data"])
@pytest.mark.parametrize("kinds", [["labelIds"], ["labelTrainIds"], ["labelIds", "labelTrainIds"]])
@pytest.mark.parametrize(
    ("name", "split", "kind"),
    [
        ("cityscapes_sem_seg_val", "val", "gtFine"),
        ("cityscapes_coarse_sem_seg_train_extra", "train_extra", "gtCoarse"),
        ("cityscapes_coarse_sem_seg_val", "val", "gtCoarse"),
    ],
)
def test_cityscapes(root, folder, kinds, name, split, kind):
    for city in ("ulm", "bochum"):
        for ids in kinds:
            write_cityscapes(root / folder, split, city, "000001", CITY_FILES[ids], kind=kind, ids=ids)
    found = read(name, 19)
    assert found == {f"{city}_000001_000019": CITY_LABELS for city in ("bochum", "ulm")}
    assert list(found) == sorted(found)


def test_cityscapes_instances_are_named_where_they_are(root):
    for city in ("ulm", "bochum"):
        write_cityscapes(root, "val", city, "000001", CITY_IDS)
    write_cityscapes(root, "val", "ulm", "000001", np.array([[26001]], np.uint16), ids="instanceIds")
    first, second = DatasetCatalog.get("cityscapes_sem_seg_val")
    assert "instance_file_name" not in first
    assert second["instance_file_name"].endswith("gtFine/val/ulm/ulm_000001_000019_gtFine_instanceIds.png")


# ---------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(
    ("load", "paths"),
    [
        (
            ade20k.load_ade20k,
            [
                "ADEChallengeData2016/annotations/training",
                "ade/ADEChallengeData2016/images/training",
                "ADEChallengeData2016/annotations_detectron2/training",
                "ade20k/train/label",
            ],
        ),
        (voc2012.load_voc2012, ["VOCdevkit/VOC2012/SegmentationClass", "VOC2012/JPEGImages"]),
        (cityscapes.load_cityscapes, ["cityscapes/leftImg8bit/train", "cityscapes/gtFine/train"]),
    ],
)
def test_all_that_was_looked_for_is_listed_with_its_full_path(root, load, paths):
    (root / "data").mkdir()
    with pytest.raises(FileNotFoundError, match=r"(?s)\(.*train\).*DETECTRON2_DATASETS") as error:
        load("train")
    for path in paths:
        for folder in (root, root / "data"):
            assert f"    {folder / path} " in str(error.value)


def test_what_is_there_already_is_told(root):
    (root / "a" / "images").mkdir(parents=True)
    layout = Layout(used_by="somebody", images="a/images", labels="a/labels")
    with pytest.raises(
        FileNotFoundError, match=r"(?s)somebody:\n +\S+a/images +found\n +\S+a/labels +missing\nAsk them"
    ):
        load_layout("X (train)", (layout,), way_out="Ask them.")
    (root / "a" / "labels").mkdir()
    with pytest.raises(FileNotFoundError, match=r"a/labels +found\n +\S+a/labels/\*.png +missing"):
        load_layout("X (train)", (layout,))


def test_files_by_name(tmp_path):
    for file in ("a.JPG", "b.jpeg", ".hidden.jpg", "notes.txt", "deep/c.jpg"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert files_by_name(str(tmp_path), (".jpg", ".jpeg")) == {"a": "a.JPG", "b": "b.jpeg"}
    assert files_by_name(str(tmp_path), (".jpg",), nested=True) == {"deep/c": "deep/c.jpg"}
    (tmp_path / "a.jpeg").touch()
    with pytest.raises(ValueError, match=rf"two files in {tmp_path} are named a: a\.[Jj].*keep one"):
        files_by_name(str(tmp_path), (".jpg", ".jpeg"))


def test_what_a_folder_passes_over_is_told_once(root, caplog):
    base = root / "a"
    for name in (
        "1.JPG",
        "2.webp",
        "3.gif",
        "4.GIF",
        "5",
        ".6.jpg",
        "._1.JPG",
        ".DS_Store",
        "Thumbs.db",
        "7.jpg/8.txt",
    ):
        (base / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (base / "images" / name).touch()
    for name in ("1.png", "9.png"):
        (base / "labels" / name).parent.mkdir(exist_ok=True)
        (base / "labels" / name).touch()
    layout = Layout(used_by="somebody", images="a/images", labels="a/labels")
    for _ in range(2):
        assert len(load_layout("X (train)", (layout,))) == 1
    passed, orphans = dict.fromkeys(record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 2
    assert (
        f"{base}/images: 2 .gif (3.gif, 4.GIF), 1 .webp (2.webp), 1 hidden (.6.jpg), 1 without an ending (5)" in passed
    )
    assert f"1 label files have no image, the first is {base}/labels/9.png" in orphans
