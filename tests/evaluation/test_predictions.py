"""Stored predictions: matching by name, reading, refusals; the counts of SemSegEvaluator over any number of processes.

Oracle of the numbers: NumPy, over the label maps that the test wrote.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaleeq import engine
from scaleeq.commands import score
from scaleeq.data import find_dataset, read_labels
from scaleeq.data.reading import read_instances
from scaleeq.evaluation import Reader, SemSegEvaluator, dataset_parts, score_predictions
from scaleeq.evaluation.predictions import match_pictures, prediction_record
from tests.data.coded_pictures import write_png

TOOL = Path(__file__).parents[2] / "tools" / "evaluate_predictions.py"
READER = Reader(labels=read_labels, instances=read_instances)
NUM_IMAGES, NUM_CLASSES, SIZE = 21, 3, (30, 40)


def save(labels: np.ndarray, path: Path, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image.putpalette([255, 0, 0, 9, 9, 9, 0, 0, 255])
    image.save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder data set, with predictions in "predictions": nested ones, and pictures with a palette."""
    root, rng = tmp_path_factory.mktemp("stored"), np.random.default_rng(0)
    (root / "classes.txt").write_text("sky\nsea\nsand\n")
    for index in range(NUM_IMAGES):
        truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), SIZE)
        wrong = rng.integers(0, NUM_CLASSES, SIZE).astype(np.uint8)
        prediction = np.where((rng.random(SIZE) < 0.5) & (truth != 255), truth, wrong)
        save(np.zeros((*SIZE, 3), np.uint8), root / "images" / f"{index:02d}.jpg")
        save(truth, root / "labels" / f"{index:02d}.png")
        nested = "a" if index % 3 else "b/c"
        save(prediction, root / "predictions" / nested / f"{index:02d}.png", palette=index % 2 == 0)
    return root


@pytest.fixture
def name(folder) -> str:
    find_dataset(f"folder:{folder}")
    return f"folder:{folder}"


def test_numbers_by_numpy(folder, name):
    counts = np.zeros((NUM_CLASSES, NUM_CLASSES))
    for path in sorted((folder / "predictions").rglob("*.png")):
        truth, prediction = np.array(Image.open(folder / "labels" / path.name)), np.array(Image.open(path))
        for label in range(NUM_CLASSES):
            counts[label] += np.bincount(prediction[truth == label], minlength=NUM_CLASSES)
    iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    record = score_predictions(str(folder / "predictions"), name, READER)
    results = record["sem_seg"]
    assert results["mIoU"] == pytest.approx(100 * iou.mean(), rel=1e-12)
    assert "boundary_IoU" not in results, "it takes its time, and is asked for"
    assert results["IoU-sea"] == pytest.approx(100 * iou[1], rel=1e-12)
    assert results["pACC"] == pytest.approx(100 * np.trace(counts) / counts.sum(), rel=1e-12)
    assert (record["num_images"], record["datasets"], record["absent_classes"]) == (NUM_IMAGES, [name], "exclude")


def test_processes_make_no_difference(folder, name, capsys):
    """Boundary metrics too, and over three parts of the images, as three ranks have them."""
    predictions = str(folder / "predictions")
    alone = score_predictions(predictions, name, READER, boundary=True)
    assert alone == score_predictions(predictions, name, READER, boundary=True, workers=3)
    assert {"trimap_mIoU_3px", "boundary_IoU", "mIoU"} <= set(alone["sem_seg"])
    assert "images" not in capsys.readouterr().err, "no bar where stderr is no terminal"


def test_the_tool_prints_and_writes(folder, name):
    """Its file equals what the evaluator makes of the same label maps, one by one."""
    file = folder / "out" / "results.json"
    command = [sys.executable, str(TOOL), str(folder / "predictions"), "--dataset", name, "--json", str(file)]
    done = subprocess.run([*command, "--absent", "zero", "--workers", "2"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "sand" in done.stdout and "Policy 'zero'" in done.stdout and "no background class" in done.stdout
    evaluator = SemSegEvaluator(name, absent="zero", parts=dataset_parts(name))
    for path in (folder / "predictions").rglob("*.png"):
        truth = np.array(Image.open(folder / "labels" / path.name))
        evaluator.count(np.array(Image.open(path)), truth, {"file_name": str(path)})
    written = json.loads(file.read_text())
    assert written["sem_seg"] == evaluator.evaluate()["sem_seg"]
    assert written["absent_classes"] == "zero" and written["num_images"] == NUM_IMAGES


def test_the_tools_errors_are_sentences(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(folder), "--dataset", "folder:nowhere"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(TOOL), run_name="__main__")
    assert re.match(r"error: folder:nowhere: there is neither ", capsys.readouterr().err)


def test_any_number_of_workers_but_a_negative_one(folder, name):
    predictions = str(folder / "predictions")
    assert score_predictions(predictions, name, READER, workers=0) == score_predictions(predictions, name, READER)
    with pytest.raises(ValueError, match=r"the number of worker processes is -1; expected 0 or more"):
        score_predictions(predictions, name, READER, workers=-1)


def copy_of(folder: Path, target: Path, *, without: tuple[str, ...] = ()) -> Path:
    for path in (folder / "predictions").rglob("*.png"):
        if path.stem not in without:
            save(np.array(Image.open(path)), target / path.name)
    return target


def test_missing_and_extra_pictures_are_listed_at_once(folder, name, tmp_path, caplog):
    copy_of(folder, tmp_path, without=("03", "17"))
    for extra in ("03_color.png", "notes/x.png", "twice/04.png"):
        save(np.zeros(SIZE, np.uint8), tmp_path / extra)
    with pytest.raises(ValueError) as error:
        score_predictions(str(tmp_path), name, READER)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{tmp_path} does not hold one picture for each of the {NUM_IMAGES} images"
    assert lines[1:] == [
        "missing (2): 03.png, 17.png",
        "several for one image (2): 04.png, twice/04.png",
        "of no image (2): 03_color.png, notes/x.png",
    ]
    (tmp_path / "twice" / "04.png").unlink()
    for missing in ("03", "17"):
        save(np.zeros(SIZE, np.uint8), tmp_path / f"{missing}.png")
    score_predictions(str(tmp_path), name, READER)
    assert "not scored\nof no image (2): 03_color.png, notes/x.png" in caplog.text
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        score_predictions(str(tmp_path / "nothing"), name, READER)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((*SIZE, 3), np.uint8), r"05.png.*3 channels"),
        (np.zeros((30, 41), np.uint8), r"05.png is \(30, 41\) .height, width., its truth \(30, 40\)"),
        (np.full(SIZE, 3, np.uint8), r"prediction of .*05.png holds \[3\]; valid are the 3 classes"),
        (np.full(SIZE, 255, np.uint8), r"prediction of .*05.png holds \[255\]"),
    ],
    ids=["RGB", "size", "class", "void"],
)
def test_a_wrong_picture_is_named(folder, name, tmp_path, wrong, message, workers):
    copy_of(folder, tmp_path, without=("05",))
    save(wrong, tmp_path / "05.png")
    with pytest.raises(ValueError, match=message):
        score_predictions(str(tmp_path), name, READER, workers=workers)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.full(SIZE, 0.99, np.float32), r"05.png \(mode F\) hold .* no whole numbers, the first is 0.99"),
        (np.full(SIZE, np.nan, np.float32), r"05.png \(mode F\) hold .* no whole numbers, the first is nan"),
        (np.full(SIZE, -1, np.int32), r"05.png \(mode I\) reach from -1 to -1"),
        (None, r"05.png cannot be read: it is a named pipe"),
    ],
    ids=["float", "NaN", "negative", "pipe"],
)
def test_values_that_are_no_labels_are_named(folder, name, tmp_path, wrong, message, workers):
    copy_of(folder, tmp_path, without=("05",))
    if wrong is None:
        os.mkfifo(tmp_path / "05.png")
    else:
        Image.fromarray(wrong).save(tmp_path / "05.png", format="TIFF")
    signal.alarm(30)  # a pipe that nobody writes to is waited for
    with pytest.raises((ValueError, OSError), match=message):
        score_predictions(str(tmp_path), name, READER, workers=workers)
    signal.alarm(0)


def test_stored_values_of_few_bits_and_upper_case_endings(folder, name, tmp_path):
    expected = score_predictions(str(folder / "predictions"), name, READER)["sem_seg"]
    for path in copy_of(folder, tmp_path).glob("*.png"):
        write_png(path.with_suffix(".PNG"), np.array(Image.open(path)), 2)
        path.unlink()
    assert score_predictions(str(tmp_path), name, READER)["sem_seg"] == expected


def test_pictures_of_another_ending_are_listed(folder, name, tmp_path):
    copy_of(folder, tmp_path)
    (tmp_path / "03.png").rename(tmp_path / "03.npy")
    with pytest.raises(
        ValueError, match=r"missing \(1\): 03.png\nnamed as these, but not .png, and not read \(1\): 03.npy"
    ):
        score_predictions(str(tmp_path), name, READER)


def test_one_class_measures_nothing(folder, tmp_path):
    for kind in ("images", "labels"):
        save(np.zeros(SIZE, np.uint8), tmp_path / kind / "a.png")
    (tmp_path / "classes.txt").write_text("sky")
    find_dataset(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match=r"has one class, so that every prediction is right.*background"):
        score_predictions(str(tmp_path / "labels"), f"folder:{tmp_path}", READER)


def records_of(*names: str) -> list[dict]:
    return [{"file_name": f"/images/{name}"} for name in names]


@pytest.mark.parametrize(
    "pattern", ["{}_leftImg8bit.png", "{}.png", "{}_leftImg8bit_pred.png", "{}_gtFine_labelIds.png"]
)
@pytest.mark.parametrize("nested", [True, False])
def test_names_of_cityscapes(tmp_path, pattern, nested):
    frames = ["bonn_000001_000019", "bonn_000001_000190", "ulm_000002_000019"]
    for frame in frames:
        city = frame.split("_")[0] if nested else "."
        save(np.zeros((2, 2), np.uint8), tmp_path / city / pattern.format(frame))
    records = records_of(*(f"{frame}_leftImg8bit.png" for frame in frames))
    found = match_pictures(str(tmp_path), records, family="cityscapes")
    assert [os.path.basename(path) for path in found] == [pattern.format(frame) for frame in frames]
    save(np.zeros((2, 2), np.uint8), tmp_path / f"{frames[0]}_color.png")
    if pattern == "{}_leftImg8bit.png":  # the image's own name decides
        assert match_pictures(str(tmp_path), records, family="cityscapes") == found
    else:
        with pytest.raises(ValueError, match=r"several for one image \(2\).*_color.png"):
            match_pictures(str(tmp_path), records, family="cityscapes")


def test_raw_values(tmp_path):
    """The data set's own map, Cityscapes' labelIds where its truth is labelTrainIds; else there is nothing to map."""
    path = tmp_path / "x.png"
    save(np.array([[7, 33, 0, 1]], np.uint8), path)
    record = {"file_name": "x.jpg", "sem_seg_file_name": "truth.png"}
    assert read_labels(prediction_record(str(path), record, "cityscapes", True)).tolist() == [[0, 18, 255, 255]]
    ade20k = record | {"label_map": {0: 255, **{raw: raw - 1 for raw in range(1, 256)}}}
    assert read_labels(prediction_record(str(path), ade20k, "ade20k", True)).tolist() == [[6, 32, 255, 0]]
    assert read_labels(prediction_record(str(path), ade20k, "ade20k", False)).tolist() == [[7, 33, 0, 1]]
    with pytest.raises(ValueError, match=r"truth.png holds labels as they are: leave out --label-ids"):
        prediction_record(str(path), record, "", True)


def test_the_commands_option_for_raw_values_is_heard(folder, name, monkeypatch):
    monkeypatch.setattr(engine, "setup_logger", lambda **options: None)  # of this process, whose log others read
    words = [str(folder / "predictions"), "--dataset", name, "--workers", "0"]
    score.run(score.parse(score.parser(), words))
    with pytest.raises(ValueError, match="leave out --label-ids"):
        score.run(score.parse(score.parser(), [*words, "--label-ids"]))
