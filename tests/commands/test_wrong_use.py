"""Wrong uses that are told before torch is loaded: files, places, numbers, options. One line, and nothing is left."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands.test_console_verbs import WATCHED, loaded, scaleeq

DATA = ["data", "check", "camvid_sem_seg_val"]
PICTURES = ["eval", "--predictions", ".", "--dataset", "camvid_sem_seg_val"]


def refused(folder: Path, *words: str) -> str:
    """The line that tells a wrong use; torch is not loaded, and the folder is as it was."""
    before = sorted(folder.rglob("*"))
    done = scaleeq(*words, code=WATCHED, folder=folder)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and set(loaded(done)) <= {"yaml", "yacs"}
    assert sorted(folder.rglob("*")) == before
    return line


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file, folders that are named as files, a run without weights, and a photo that is none."""
    (tmp_path / "file").write_text("no folder")
    for name in ("folder.json", "folder.onnx", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "comparison.yaml").write_text(
        "{base: toy/fpn, seeds: [0], baseline: a, variants: {a: {}, b: {SOLVER.BASE_LR: -1.0}}}"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*DATA, "--json", "folder.json"], "--json folder.json is a folder, and a file is to be written there"),
        ([*DATA, "--json", "/dev/null"], "--json /dev/null is no file, but a device or a pipe"),
        (
            [*DATA, "--sheet", "file/sheet.png"],
            "written to --sheet file/sheet.png: .*/file is no folder",
        ),
        ([*PICTURES, "--json", "folder.json"], "--json folder.json is a folder"),
        (["export", "quickstart", "-o", "folder.onnx"], "-o folder.onnx is a folder"),
        (["export", "quickstart", "-o", "file/a.onnx"], "nothing can be written to -o file/a.onnx"),
        (["predict", "quickstart", "text.jpg", "--weights", "file", "--output", "file"], "written to --output file"),
        (["analyze", "quickstart", "--output", "file/scales"], "written to --output file/scales"),
        (["analyze", "--theory", "--output", "file"], "written to --output file"),
        (["compare", "text.jpg", "--output", "file"], "written to --output file"),
    ],
)
def test_a_place_where_nothing_can_be_written(place, words, told):
    assert re.search(told, refused(place, *words))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "quickstart", "MODEL.WEIGHTS", "no.pth"], "MODEL.WEIGHTS: there is no checkpoint no.pth"),
        (["eval", "quickstart", "MODEL.WEIGHTS", "."], "MODEL.WEIGHTS: there is no checkpoint .: it is a folder"),
        (["export", "quickstart", "--weights", "no.pth", "-o", "a.ts"], "--weights: there is no checkpoint no.pth"),
        (["export", "toy/fpn", "-o", "a.ts"], "toy/fpn has no weights yet"),
        (["predict", "quickstart", "text.jpg", "--weights", "no.pth"], "--weights: there is no checkpoint no.pth"),
        (["predict", "toy/fpn", "text.jpg"], "toy/fpn has no weights yet"),
        (["predict", "quickstart", "--weights", "file", "no.jpg", "no.mp4"], "no file or folder no.jpg, no.mp4"),
        (["analyze", "quickstart", "--weights", "no.pth"], "--weights: there is no checkpoint no.pth"),
        (["demo", "quickstart", "--weights", "no.pth"], "--weights: there is no checkpoint no.pth"),
        (["analyze", "run"], "--weights: there is no checkpoint run/model_final.pth"),
        (["compare", "no.yaml"], "there is no comparison's file .*/no.yaml"),
        (["compare", "comparison.yaml"], "comparison.yaml, variant b: SOLVER.BASE_LR is -1.0"),
        (["compare", "comparison.yaml", "--seeds", "-1"], "comparison.yaml: seeds is ..1.; give a list of different"),
        (["compare", "text.jpg"], "text.jpg holds a str, not keys with values"),
        (["compare", "folder.json"], "there is no comparison's file .*/folder.json"),
        (["predict", "--predictions", "no", "--dataset", "camvid_sem_seg_val"], "there is no folder /.*/no"),
        (["eval", "--predictions", "no", "--dataset", "camvid_sem_seg_val"], "there is no folder /.*/no"),
        (["config", "text.jpg"], "text.jpg is not a config in plain YAML|holds a str"),
    ],
)
def test_a_file_that_is_not_there(place, words, told):
    assert re.search(told, refused(place, *words))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train"], "give a config's name or path"),
        (["eval"], "give a config's name or path"),
        (["train", "quickstart", "--num-gpus", "-2"], "--num-gpus is -2"),
        (["train", "quickstart", "--num-machines", "0"], "--machine-rank 0 with --num-machines 0"),
        (["train", "quickstart", "--num-machines", "2"], "--num-machines 2 needs --dist-url tcp://HOST:PORT"),
        (
            ["train", "quickstart", "--num-gpus", "2", "--dist-url", "here"],
            "--dist-url is 'here'; give tcp://HOST:PORT",
        ),
        (["train", "quickstart", "--dist-url", "tcp://host"], "--dist-url is 'tcp://host'"),
        (["train", "quickstart", "--dist-url", "tcp://host:port"], "--dist-url is 'tcp://host:port'"),
        (["predict", "quickstart", "text.jpg", "--frames", "3"], "--frames 3 counts those of a video"),
        (["predict", "--model", "smb:runs", "text.jpg"], "the library of --model LIBRARY:PLACE is 'smb'; .*mean smp"),
        (["analyze", "run", "--images", "0"], "argument --images: 0 is not a positive number"),
        (["eval", "quickstart", "--boundary"], "--boundary goes with --predictions PRED_DIR alone"),
        (["eval", "quickstart", "--json", "a.json"], "--json goes with --predictions PRED_DIR alone"),
        ([*PICTURES, "--workers", "-1"], "argument --workers: -1 is below 0"),
        (["data", "prepare", "voc2012-trainaug", "--workers", "-1"], "argument --workers: -1 is below 0"),
        (["benchmark", "toy/fpn", "--batch", "0"], "argument --batch: 0 is not a positive number"),
        (["benchmark", "toy/fpn", "--iterations", "-3"], "argument --iterations: -3 is not a positive number"),
        (["benchmark", "toy/fpn", "--size", "9999999999", "9"], "an image has at most 2147483648 pixels"),
    ],
)
def test_numbers_and_options_that_mean_nothing(place, words, told):
    assert re.search(told, refused(place, *words))


def test_an_unknown_engine(place, monkeypatch):
    monkeypatch.setenv("SCALEEQ_ENGINE", "detectron3")
    assert "SCALEEQ_ENGINE='detectron3' is not one of auto" in refused(place, "train", "quickstart")


def test_an_unknown_key_needs_no_engine_but_detectron2(place, monkeypatch):
    monkeypatch.setenv("SCALEEQ_ENGINE", "standalone")
    assert "did you mean SOLVER.BASE_LR" in refused(place, "config", "quickstart", "SOLVER.BASE_LT", "1")
