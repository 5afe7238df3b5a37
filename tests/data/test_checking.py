"""The check of data sets: what it counts, what it finds at once, how it samples, what the command returns.

Oracles: numpy's counts of what was written; for CamVid the void shares counted independently on SegNet's files. What is
said of each kind of wrong data set: test_wrong_datasets.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scaleeq import console
from scaleeq.commands import check_data
from scaleeq.data import find_dataset
from scaleeq.data.check.checking import is_interpolated, look_at, read_all, sample_evenly
from scaleeq.data.check.findings import KINDS, NOTES, Finding, by_importance
from scaleeq.data.check.splits import find_orphans, is_training, names_of, other_side
from scaleeq.data.sets import camvid, toy
from scaleeq.pictures import NO_CLASS_COLOR, VOID_COLOR, colorize
from scaleeq.reports.data import ALL, Report, check_dataset, check_datasets, draw_sheets
from tests.data.test_camvid import REAL_ROOT, write_camvid
from tests.data.wrong_folders import CLASSES, DISTINCT, folder, good, label_b, photo, save

RECORD_FOLDERS = {"file_name": "images", "sem_seg_file_name": "labels"}


def kinds(report) -> list[str]:
    return [finding.kind for finding in report.findings]


# ---------------------------------------------------------------------------------------------------- reading


def test_sample_is_spread_evenly_and_repeatable():
    sample = sample_evenly(1000, 10, seed=3)
    assert [index // 100 for index in sample] == list(range(10))
    assert sample == sample_evenly(1000, 10, seed=3) != sample_evenly(1000, 10, seed=4)
    assert sample_evenly(5, 5) == sample_evenly(5, ALL) == [0, 1, 2, 3, 4]
    assert len(set(sample_evenly(7, 5))) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_are_numpys(root, workers):
    rng = np.random.default_rng(1)
    labels = {f"{index:02}": rng.integers(0, 4, (6, 8 + index), np.uint8) for index in range(9)}
    labels["08"][:] = 255
    name = folder(root, labels)
    report = check_dataset(name, sample=ALL, workers=workers)
    everything = np.concatenate([array.ravel() for array in labels.values()])
    np.testing.assert_array_equal(report.totals.pixels, np.bincount(everything, minlength=256))
    assert report.totals.images[:4].tolist() == [8] * 4 and report.totals.images[255] == 1
    assert report.totals.shapes == {(6, 8 + index): 1 for index in range(9)}
    content = report.to_dict()
    assert (content["read"], content["channels"]) == (9, {"RGB": 9})
    assert content["width_px"] == {"min": 8, "median": 12.0, "max": 16}
    assert [row["images"] for row in content["classes"]] == [8, 8, 8, 8, 1]
    assert sum(row["pixel_share"] for row in content["classes"]) == pytest.approx(1)
    assert "width : 8 / 12 / 16 px" in report.text()


@pytest.mark.parametrize("void", [1, 5, 255])
def test_void_is_the_last_row_behind_what_is_no_class(void):
    """Three classes, a pixel of each label."""
    report = Report("own", classes=["sky", "road", "car"], ignore_label=void)
    report.totals.pixels[:] = 1
    rows = [(row["label"], row["name"]) for row in report.to_dict()["classes"]]
    classes = [(0, "sky"), (1, "road"), (2, "car")]
    others = [(label, "(no class)") for label in range(3, 256)]
    assert rows == [row for row in [*classes, *others] if row[0] != void] + [(void, "(void)")]


def test_scenes_that_need_no_files(root):
    report = check_dataset("toy_sem_seg_val", sample=3, workers=0)
    assert report.totals.read == 3 and report.size == toy.NUM_SCENES["val"] and not report.faults


@pytest.mark.skipif(REAL_ROOT is None, reason="no CamVid under DETECTRON2_DATASETS or ../shared/datasets")
def test_real_labels_are_fine(monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", REAL_ROOT)
    (report,) = check_datasets(["camvid_sem_seg_val"], sample=ALL, workers=2)
    assert report.findings == []
    *_, (label, name, share, images) = report._class_rows()
    assert (label, name, images) == (255, "(void)", 101)
    assert 100 * share == pytest.approx(1.70, abs=0.005)


# ---------------------------------------------------------------------------------------------------- findings


def test_many_faults_at_once_most_important_first(root):
    name = folder(root, {f"{index}": DISTINCT for index in range(8)})
    labels, images = root / "own" / "labels", root / "own" / "images"
    (labels / "1.png").write_bytes(b"")
    (images / "2.png").write_text("no picture")
    save(labels / "3.png", np.full((16, 32), 9, np.uint8))
    save(labels / "4.png", DISTINCT[:8])
    save(labels / "5.png", np.full((16, 32), 255, np.uint8))
    (labels / "6.png").unlink()
    (images / "7.png").unlink()
    report = check_dataset(name, sample=ALL, workers=2)
    assert report.totals.read == 6
    expected = [
        "incomplete",
        "unreadable image",
        "unreadable labels",
        "undeclared",
        "size",
        "orphan labels",
        "all void",
    ]
    assert kinds(report) == expected
    assert [finding.count for finding in report.findings] == [1] * len(expected)
    assert [Path(finding.files[0]).name for finding in report.findings] == [f"{n}.png" for n in (6, 2, 1, 3, 4, 7, 5)]
    order = [report.text().index(KINDS[kind]) for kind in expected]
    assert order == sorted(order) and "6 faults, 1 note\n" in report.text()


def test_notes_stand_behind_faults():
    findings = [Finding(kind, 1, "") for kind in reversed(KINDS)]
    ordered = [finding.kind for finding in by_importance(findings)]
    assert ordered == list(KINDS) and tuple(ordered[-len(NOTES) :]) == NOTES


def test_only_the_first_names_are_shown(root):
    name = folder(root, {f"{index}": DISTINCT + (DISTINCT == 3) for index in range(5)})
    report = check_dataset(name, sample=ALL, workers=0)
    assert "2.png, and 2 more" in report.text()
    assert len(report.to_dict()["findings"][0]["files"]) == 5


def test_classes_that_never_occur_are_a_note(root):
    name = folder(root, {"a": DISTINCT % 3 % 2, "b": DISTINCT % 3 % 2})
    report = check_dataset(name, sample=ALL, workers=0)
    assert kinds(report) == ["never"] and not report.faults
    assert "2 car, 3 tree" in report.findings[0].advice and "--all" not in report.findings[0].advice
    assert "--all" in check_dataset(name, sample=1, workers=0).findings[0].advice
    void = folder(root, {"c": np.where(DISTINCT == 255, 255, DISTINCT % 2).astype(np.uint8)})
    advice = check_dataset(void, sample=ALL, workers=0).findings[0].advice
    assert "2 car, 3 tree" in advice and "minus one" not in advice, "two are missing, not the last one alone"


def test_the_last_class_alone_is_missing(root):
    """As after one 'minus one' too many on labels without class 0's share being lost: 3 became 2, 0 became void."""
    name = folder(root, {"a": np.where(DISTINCT == 255, 255, DISTINCT - 1).astype(np.uint8)})
    assert "minus one" in check_dataset(name, sample=ALL, workers=0).findings[0].advice


def test_deep_images_and_jpeg_labels(root):
    name = good(root)
    for brightest, kind in ((40000, "deep image"), (4000, "dark image")):
        save(root / "own" / "images" / "a.png", np.full(DISTINCT.shape, brightest, np.uint16))
        report = check_dataset(name, sample=ALL, workers=0)
        assert kinds(report) == [kind] and "I;16" in report.text()
        assert bool(report.faults) == (kind == "dark image")
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(root / "labels.jpg")
    record = {"file_name": str(root / "own" / "images" / "b.png"), "sem_seg_file_name": str(root / "labels.jpg")}
    assert [complaint.kind for complaint in look_at(record, num_classes=4).complaints] == ["lossy"]


def test_instances_are_looked_at(root):
    """Cityscapes' iIoU reads them at the end of a training: late for a broken file."""
    good(root)
    files = {key: str(root / "own" / kind / "a.png") for key, kind in RECORD_FOLDERS.items()}
    record = files | {"instance_file_name": str(root / "instances.png")}
    for content, expected in (
        (DISTINCT.astype(np.uint16) * 1000, []),
        (DISTINCT, ["16 bits"]),
        (DISTINCT[:8].astype(np.uint16) * 1000, [r"(8, 32)"]),
    ):
        save(root / "instances.png", content)
        complaints = look_at(record, num_classes=4).complaints
        assert [complaint.kind for complaint in complaints] == ["instances"] * len(expected)
        assert all(text in complaint.message for text, complaint in zip(expected, complaints, strict=True))


@pytest.mark.parametrize(("orientation", "noted"), [(1, False), (3, True)])
def test_an_image_that_exif_turns_is_noted(root, orientation, noted):
    """By half a turn the size stays: nothing but the file's header tells."""
    name, exif = good(root), Image.Exif()
    exif[0x0112] = orientation
    photo(root / "own" / "images" / "b.png", exif=exif)
    assert kinds(check_dataset(name, sample=ALL, workers=0)) == ["turned image"] * noted
    if noted:
        save(label_b(root), DISTINCT, exif=exif)
        assert kinds(check_dataset(name, sample=ALL, workers=0)) == []


@pytest.mark.parametrize("factor", [0.4, 0.5, 0.7, 1.5, 3])
def test_interpolation_is_told_from_nearest(factor):
    columns = [np.vstack([toy.render_scene("val", 3 * row + index)[1] for index in range(3)]) for row in range(4)]
    maps = [np.hstack(columns[:2]), np.hstack(columns[2:])]  # as large as photographs
    found = {}
    for how in (cv2.INTER_NEAREST, cv2.INTER_LINEAR):
        scaled = [cv2.resize(np.minimum(each, 8), None, fx=factor, fy=factor, interpolation=how) for each in maps]
        found[how] = sum(map(is_interpolated, scaled))
    assert found == {cv2.INTER_NEAREST: 0, cv2.INTER_LINEAR: 2}
    noise = np.random.default_rng(0).integers(0, 9, (100, 100), np.uint8)
    assert not is_interpolated(noise)


# ---------------------------------------------------------------------------------------------------- splits


def test_names_of_folders(root):
    good(root, "train")
    good(root, "val")
    both = [f"folder:{root}/own/{split}" for split in ("train", "val")]
    assert names_of(str(root / "own")) == names_of("folder:own") == both
    assert names_of("folder:own/val") == names_of(str(root / "own" / "val")) == both[1:]
    assert names_of("camvid_sem_seg_val") == ["camvid_sem_seg_val"]
    with pytest.raises(ValueError, match="nearest are camvid_sem_seg_val"):
        names_of("camvid_sem_seg_vla")


def test_a_relative_folder_is_looked_for_as_given_and_then_below_the_root(root, monkeypatch):
    here = root / "here"
    (here / "own").mkdir(parents=True)  # of this name, but no data set
    good(root, "train")
    monkeypatch.chdir(here)
    assert names_of("own") == names_of("own/") == names_of("own/train") == [f"folder:{root}/own/train"]
    with pytest.raises(ValueError, match=rf"no folder {here}/no/where nor {root}/no/where; .*classes.txt"):
        names_of("no/where")
    good(here, "val")
    assert names_of("own") == [f"folder:{here}/own/val"]
    assert names_of("folder:own") == [f"folder:{root}/own/train"]
    monkeypatch.delenv("DETECTRON2_DATASETS")
    good(here / "datasets", "test")
    assert names_of("folder:own") == [f"folder:{here}/datasets/own/test"]
    assert find_dataset(names_of("folder:own")[0]).stuff_classes == list(CLASSES)


def test_who_must_not_share():
    assert other_side("voc2012_sem_seg_trainaug") == ["voc2012_sem_seg_val", "voc2012_sem_seg_test"]
    assert set(other_side("voc2012_sem_seg_val")) == {"voc2012_sem_seg_train", "voc2012_sem_seg_trainaug"}
    assert "cityscapes_coarse_sem_seg_train_extra" in other_side("cityscapes_coarse_sem_seg_val")
    assert other_side("toy_sem_seg_val", ["camvid_sem_seg_train", "camvid_sem_seg_test"]) == [
        "camvid_sem_seg_train",
        "toy_sem_seg_train",
    ]
    assert not is_training("folder:train_of_thought") and is_training("folder:own/train")


def test_a_leak_is_found_under_another_name_and_told_once(root):
    write_camvid(root, "train", ["a", "b", "c"], ".png", seed=1)
    write_camvid(root, "val", ["d", "e"], ".png", seed=2)
    images = root / "CamVid"
    (images / "val" / "e.png").write_bytes((images / "train" / "b.png").read_bytes())
    reports = check_datasets(["camvid_sem_seg_train", "camvid_sem_seg_val"], sample=ALL, workers=0)
    assert [kinds(report) for report in reports] == [["leak"], []]
    assert reports[0].findings[0].files == [str(images / "train" / "b.png")]
    (alone,) = check_datasets(["camvid_sem_seg_val"], sample=ALL, workers=0)
    assert str(images / "train" / "b.png") in alone.findings[0].advice
    (images / "trainannot" / "a.png").unlink()  # a training set that is not complete is compared all the same
    (alone,) = check_datasets(["camvid_sem_seg_val"], sample=ALL, workers=0)
    assert kinds(alone) == ["leak"]


def test_labels_that_many_splits_share_are_no_orphans(root):
    """VOC keeps all splits in one folder: labels of another split have their image there."""
    for name in ("a", "b"):
        photo(root / "images" / f"{name}_leftImg8bit.png")
        save(root / "labels" / f"{name}_gtFine_labelIds.png", DISTINCT)
    save(root / "labels" / "c_gtFine_labelIds.png", DISTINCT)
    save(root / "labels" / "c_gtFine_color.png", DISTINCT)
    record = {
        "file_name": str(root / "images" / "a_leftImg8bit.png"),
        "sem_seg_file_name": str(root / "labels" / "a_gtFine_labelIds.png"),
    }
    (orphans,) = find_orphans([record])
    assert orphans.files == [str(root / "labels" / "c_gtFine_labelIds.png")]
    assert find_orphans([{"file_name": str(root / "images" / "a_leftImg8bit.png")}]) == []


# ---------------------------------------------------------------------------------------------------- pictures, command


def test_colors():
    labels = np.array([[0, 1, 2, 255]], np.uint8)
    expected = [[(1, 2, 3), (4, 5, 6), NO_CLASS_COLOR, VOID_COLOR]]
    np.testing.assert_array_equal(colorize(labels, [(1, 2, 3), (4, 5, 6)], 255), expected)


def test_the_sheet_shows_faults_too(root):
    good(root, "train")
    folder(root, {"d": DISTINCT, "e": DISTINCT}, "val")
    (root / "own" / "labels" / "val" / "e.png").write_bytes(b"")
    reports = check_datasets(names_of(str(root / "own")), sample=ALL, workers=0)
    paths = draw_sheets(reports, root / "sheet.png")
    assert [path.name for path in paths] == ["sheet_1.png", "sheet_2.png"]
    colors = {tuple(color) for color in np.array(Image.open(paths[0]).convert("RGB")).reshape(-1, 3).tolist()}
    assert {tuple(color) for color in reports[0].colors} <= colors and VOID_COLOR in colors


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["own"], 1),
        (["own", "--sample", "1", "--workers", "0"], 0),  # the second of the two, which is fine
        (["own", "--sample", "0"], 2),
        (["camvid_sem_seg_vla"], 2),
        (["own", "--all", "--sample", "2"], 2),
    ],
)
def test_command(root, capsys, arguments, expected):
    folder(root, {"a": DISTINCT + (DISTINCT == 3), "b": DISTINCT})
    arguments = [str(root / "own") if word == "own" else word for word in arguments]

    def main() -> int:
        return check_data.run(check_data.parse(check_data.parser(), [*arguments, "--json", str(root / "out.json")]))

    if expected == 2:
        with pytest.raises(SystemExit, match="2"):
            console.run(main)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return
    code = main()
    printed = capsys.readouterr().out
    (content,) = json.loads((root / "out.json").read_text())["datasets"]
    assert code == expected, printed
    assert all(name in printed for name in CLASSES)
    assert any(finding["fault"] for finding in content["findings"]) == bool(expected)


def test_camvids_own_void_is_translated_before_it_is_counted(root):
    write_camvid(root, "val", ["a"], ".png")
    totals = read_all(camvid.load_camvid("val"), num_classes=11, workers=0)
    assert totals.pixels[11] == 0 and totals.pixels[255] == 16 and totals.complaints == []
