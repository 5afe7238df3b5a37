"""Folder data sets and names of data sets: files written here, read through the catalog, and one run of the loaders."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scaleeq.config import add_scaleeq_config
from scaleeq.data import build_test_loader, find_dataset
from scaleeq.data.folder import read_classes
from scaleeq.data.reading import read_image, read_labels
from scaleeq.engine import DatasetCatalog, MetadataCatalog, get_cfg

from .layout_files import image, write

LABELS = np.array([[0, 1, 2, 255]], np.uint8)


def write_folder(base, split, names, classes="road 128 64 128\ntraffic light\n\nsky 70 130 180\n"):
    base.mkdir(parents=True, exist_ok=True)
    (base / "classes.txt").write_text(classes)
    for name in names:
        write(base / "images" / split / name, image(1, 4))
        write(base / "labels" / split / f"{name.rsplit('.', 1)[0]}.png", LABELS, palette="p" in name)


@pytest.mark.parametrize("split", ["", "train"])
@pytest.mark.parametrize("where", ["relative", "absolute", "home", "trailing slash"])
def test_a_folder_is_a_data_set(root, monkeypatch, where, split):
    monkeypatch.setenv("HOME", str(root / "home"))
    base = root / "home" / "mine" if where == "home" else root / "deep" / "mine"
    write_folder(base, split, ["b.JPG", "a.png", "c.tif", "d.jpeg", "e.bmp", "p.tiff"])
    (base / "images" / split / "Thumbs.db").touch()
    path = {"home": "~/mine", "absolute": str(base)}.get(where, "deep/mine")
    name = "folder:" + "/".join(filter(None, (path, split))) + ("/" if where == "trailing slash" else "")
    metadata = find_dataset(name)
    assert metadata.stuff_classes == ["road", "traffic light", "sky"]
    assert metadata.stuff_colors == [(128, 64, 128), (0, 128, 0), (70, 130, 180)]
    assert metadata.ignore_label == 255 and metadata.evaluator_type == "sem_seg" and metadata.family == ""
    records = DatasetCatalog.get(name)
    assert [record["image_id"] for record in records] == list("abcdep")
    for record in records:
        assert read_labels(record, num_classes=3).tolist() == LABELS.tolist()
        assert read_image(record).shape == (1, 4, 3)
    assert find_dataset(name) is metadata


def test_a_split_to_test_on_needs_no_labels_others_do(root):
    write_folder(root / "mine", "test", ["a.jpg"])
    write_folder(root / "mine", "train", ["a.jpg"])
    for split in ("test", "train"):
        find_dataset(f"folder:mine/{split}")
        (root / "mine" / "labels" / split / "a.png").unlink()
        (root / "mine" / "labels" / split).rmdir()
    (record,) = DatasetCatalog.get("folder:mine/test")
    assert "sem_seg_file_name" not in record
    with pytest.raises(FileNotFoundError, match=r"(?s)folder:mine/train is not complete.*labels/train +missing"):
        DatasetCatalog.get("folder:mine/train")


def test_what_a_folder_lacks_is_told(root):
    with pytest.raises(FileNotFoundError, match=rf"neither {root}/mine/train/classes.txt nor {root}/mine/classes.txt"):
        find_dataset("folder:mine/train")
    write_folder(root / "mine", "train", ["a.jpg", "b.jpg"])
    find_dataset("folder:mine")
    with pytest.raises(FileNotFoundError, match=r"splits train: name one, for example folder:.*mine/train"):
        DatasetCatalog.get("folder:mine")
    find_dataset("folder:mine/train")
    (root / "mine" / "labels" / "train" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images have no labels.*train/b.jpg.*labels/train/b.png"):
        DatasetCatalog.get("folder:mine/train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n \n", "names 0 classes"),
        ("\n".join(map(str, range(256))), "names 256 classes; expected 1 to 255"),
        ("road\nsky\nroad 1 2 3\n", "more than once: road"),
        ("road 1 2 3\nsky 1 2 256\n", "line 2: the colour .1, 2, 256."),
    ],
)
def test_lists_of_classes_that_cannot_be_are_refused(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"{tmp_path}/classes.txt.*{message}"):
        read_classes(str(tmp_path / "classes.txt"))


def test_classes_whose_names_hold_numbers_or_foreign_letters(tmp_path):
    (tmp_path / "classes.txt").write_text("class 7\r\n1 2 3\r\nStraße 4 5 6\r\n", encoding="utf-8-sig")
    classes, colors = read_classes(str(tmp_path / "classes.txt"))
    assert classes == ["class 7", "1 2 3", "Straße"] and colors[2] == (4, 5, 6)
    assert len(set(colors)) == 3 and (0, 0, 0) not in colors


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ade20k_150_vla", "nearest are ade20k_150_val"),
        ("voc2012_trainaug", "nearest are.*voc2012_sem_seg_trainaug"),
        ("camvit_sem_seg_val", "nearest are.*camvid_sem_seg_val"),
        ("???", "there are .*camvid_sem_seg_train.*folder:PATH"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(name, message):
    with pytest.raises(ValueError, match=message):
        find_dataset(name)
    assert name not in DatasetCatalog.list() and name not in MetadataCatalog.list()


def test_the_loader_takes_a_folder_by_its_name(root):
    write_folder(root / "mine", "val", ["a.png"])
    cfg = get_cfg()
    add_scaleeq_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.DATALOADER.NUM_WORKERS = 3, 0
    ((sample,),) = build_test_loader(cfg, "folder:mine/val")
    assert sample["sem_seg_truth"].tolist() == LABELS.tolist()


def test_colour_pictures_instead_of_indexes_are_refused(root):
    write_folder(root / "mine", "", ["a.png"])
    Image.fromarray(image(1, 4)).save(root / "mine" / "labels" / "a.png")
    find_dataset("folder:mine")
    (record,) = DatasetCatalog.get("folder:mine")
    with pytest.raises(ValueError, match=r"labels/a.png are a picture with 3 channels"):
        read_labels(record, num_classes=3)
