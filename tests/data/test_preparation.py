"""tools/prepare_dataset.py and what it does, on small files in the official formats.

Oracles: the arrays that the files were written from, and masks that are painted here.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaleeq.data.preparation import prepare_dataset
from scaleeq.data.preparation.conversion import select_present
from scaleeq.data.reading import read_labels
from scaleeq.engine import DatasetCatalog, MetadataCatalog
from tests.data.official_files import write_context, write_lines, write_picture, write_sbd, write_stuff, write_voc


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "L"
        return np.array(picture)


def labels_by_name(dataset: str) -> dict[str, np.ndarray]:
    num_classes = len(MetadataCatalog.get(dataset).stuff_classes)
    return {item["image_id"]: read_labels(item, num_classes=num_classes) for item in DatasetCatalog.get(dataset)}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, labels in expected.items():
        np.testing.assert_array_equal(found[name], labels, err_msg=name)


def times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


# ---------------------------------------------------------------------------------------------------- VOC 2012
def test_trainaug(root):
    expected = write_voc(root)
    assert prepare_dataset("voc2012-trainaug", allow_incomplete=True) == ["voc2012_sem_seg_trainaug"]
    base = root / "VOCdevkit" / "VOC2012"
    assert_same({path.stem: read(path) for path in (base / "SegmentationClassAug").iterdir()}, expected)
    lists = base / "ImageSets" / "Segmentation"
    assert (lists / "trainaug.txt").read_text().split() == ["2007_a", "2007_b", "2008_c", "2011_d"]
    assert (lists / "aug.txt").read_text().split() == ["2008_c", "2011_d"]
    assert (base / "JPEGImages" / "2011_d.jpg").is_file(), "the image that SBD alone has"
    assert_same(labels_by_name("voc2012_sem_seg_trainaug"), expected)


def test_a_second_run_writes_nothing_and_wrong_pictures_are_replaced(root, caplog):
    expected = write_voc(root)
    prepare_dataset("voc2012-trainaug", allow_incomplete=True)
    before = times(root)
    prepare_dataset("voc2012-trainaug", allow_incomplete=True)
    assert times(root) == before

    folder = root / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    whole = (folder / "2008_c.png").read_bytes()
    (folder / "2008_c.png").write_bytes(whole[: len(whole) // 2])
    write_picture(folder / "2011_d.png", expected["2011_d"][:, ::-1].copy())
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(folder / "2007_a.png")
    prepare_dataset("voc2012-trainaug", allow_incomplete=True)
    assert_same({path.stem: read(path) for path in folder.iterdir()}, expected)
    kept = folder / "2007_b.png"
    assert kept.stat().st_mtime_ns == before[kept]
    assert "2007_a.png held other labels" in caplog.text


def test_numbers_are_checked(root, caplog):
    write_voc(root)
    with pytest.raises(ValueError, match=r"4 images are there, officially they are 10,582; .*--allow-incomplete"):
        prepare_dataset("voc2012-trainaug")
    assert not (root / "VOCdevkit" / "VOC2012" / "SegmentationClassAug").exists()
    (root / "VOCdevkit" / "VOCaug" / "dataset" / "cls" / "2008_c.mat").unlink()
    prepare_dataset("voc2012-trainaug", allow_incomplete=True)
    assert "1 are listed without their files, the first is 2008_c" in caplog.text
    assert labels_by_name("voc2012_sem_seg_trainaug").keys() == {"2007_a", "2007_b", "2011_d"}


def test_the_official_number_passes_silently(caplog):
    options = {"official": 2, "what": "a set", "allow_incomplete": False}
    assert select_present(["b", "a"], present=["a", "b", "c"], **options) == ["a", "b"]
    assert not caplog.records
    with pytest.raises(ValueError, match="3 images are there, officially they are 2; the lists name 3"):
        select_present(["a", "b", "c"], present=["a", "b", "c"], **options)
    with pytest.raises(ValueError, match=r"0 images are there.*Is the copy complete"):
        select_present(["a"], present=[], official=2, what="a set", allow_incomplete=True)


def test_a_killed_run_goes_on_where_it_stopped(root):
    write_voc(root)
    base, sbd = root / "VOCdevkit" / "VOC2012", root / "VOCdevkit" / "VOCaug" / "dataset"
    labels = np.arange(35, dtype=np.uint8).reshape(5, 7) % 21
    names = [f"2010_{index:03d}" for index in range(150)]
    for name in names:
        os.link(sbd / "cls" / "2008_c.mat", sbd / "cls" / f"{name}.mat")
        os.link(base / "JPEGImages" / "2008_c.jpg", base / "JPEGImages" / f"{name}.jpg")
    write_sbd(sbd / "cls" / "2008_c.mat", labels)  # written in place: all are the same file
    write_lines(sbd / "val.txt", names)

    folder, final_list = base / "SegmentationClassAug", base / "ImageSets" / "Segmentation" / "trainaug.txt"
    options = {"root": str(root), "allow_incomplete": True}
    run = multiprocessing.get_context("fork").Process(
        target=prepare_dataset, args=("voc2012-trainaug",), kwargs=options
    )
    run.start()
    while run.is_alive() and (not folder.exists() or len(os.listdir(folder)) < 5):
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    assert run.exitcode == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    assert 4 <= len(done) < len(names) and not final_list.exists()
    for path in done:
        read(path)

    prepare_dataset("voc2012-trainaug", workers=2, **options)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert set(os.listdir(folder)) == {f"{name}.png" for name in (*names, "2007_a", "2007_b", "2011_d")}
    for name in names:
        np.testing.assert_array_equal(read(folder / f"{name}.png"), labels)
    assert len(final_list.read_text().split()) == 153


# ---------------------------------------------------------------------------------------------------- Pascal-Context
def test_pascal_context(root):
    expected = write_context(root)
    names = prepare_dataset("pascal-context", allow_incomplete=True)
    assert names == [f"pascal_context_{number}_sem_seg_{split}" for number in (59, 60) for split in ("train", "val")]
    base = root / "VOCdevkit" / "VOC2010"
    assert_same({path.stem: read(path) for path in (base / "SegmentationClassContext").iterdir()}, expected)
    for split, name in (("train", "2008_000001"), ("val", "2008_000002")):
        assert_same(labels_by_name(f"pascal_context_60_sem_seg_{split}"), {name: expected[name]})
        without = np.where(expected[name] == 0, 255, expected[name].astype(int) - 1)
        assert_same(labels_by_name(f"pascal_context_59_sem_seg_{split}"), {name: without})
    before = times(root)
    prepare_dataset("pascal-context", allow_incomplete=True)
    assert times(root) == before


def test_the_json_may_lie_beside_the_devkit(root):
    write_context(root)
    (root / "VOCdevkit" / "VOC2010" / "trainval_merged.json").rename(root / "trainval_merged.json")
    assert len(prepare_dataset("pascal-context", allow_incomplete=True)) == 4


# ---------------------------------------------------------------------------------------------------- COCO-Stuff
@pytest.mark.parametrize(("version", "folder"), [("v10", "coco/coco_stuff_10k"), ("v11", "coco_stuff10k")])
def test_coco_stuff(root, version, folder):
    expected = write_stuff(root / folder, version)
    names = prepare_dataset("coco-stuff-10k", allow_incomplete=True)
    assert names == [f"coco_stuff_10k_{version}_sem_seg_{split}" for split in ("train", "test")]
    for name, split in zip(names, ("train", "test"), strict=True):
        assert_same(labels_by_name(name), {f"COCO_train2014_{split}": expected[split]})
    before = times(root)
    prepare_dataset("coco-stuff-10k", allow_incomplete=True)
    assert times(root) == before


def test_both_versions_at_once_have_the_same_labels(root):
    write_stuff(root / "coco" / "coco_stuff_10k", "v10")
    write_stuff(root / "coco_stuff10k", "v11")
    names = prepare_dataset("coco-stuff-10k", allow_incomplete=True)
    assert len(names) == 4
    assert_same(labels_by_name(names[0]), labels_by_name(names[2]))


# ---------------------------------------------------------------------------------------------------- the tool
def test_the_tool(root, monkeypatch, capsys):
    write_stuff(root / "coco_stuff10k", "v11")
    program = str(Path(__file__).resolve().parents[2] / "tools" / "prepare_dataset.py")
    command = [program, "coco-stuff-10k", "--root", str(root), "--workers", "1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(program, run_name="__main__")
    assert re.match(r"error: COCO-Stuff-10K \(train\): 1 images are there, .* are 9,000", capsys.readouterr().err)
    monkeypatch.setattr(sys, "argv", [*command, "--allow-incomplete"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(program, run_name="__main__")
    printed = capsys.readouterr()
    assert printed.out.split() == ["coco_stuff_10k_v11_sem_seg_train", "coco_stuff_10k_v11_sem_seg_test"]
    assert "2/2" in printed.err, "a progress bar"
