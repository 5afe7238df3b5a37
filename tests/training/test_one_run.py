"""Two runs in one folder: one runs, the other is refused with the first one's host and process. Real processes."""

from __future__ import annotations

import gc
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scaleeq.folder_lock import RUNNING, FolderInUse, FolderLock
from scaleeq.training.output_dir import RunLock, check_output_dir

from .kill_check import damage, differences, whole_lines
from .kill_killer import run_unbroken
from .kill_run import Attempt, arguments, write_scenes
from .tiny import OneStep, tiny_config

HOST = socket.gethostname()


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    write_scenes(tmp_path / "datasets")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


class Held:
    """Another process that has the lock of a folder."""

    def __init__(self, folder: Path) -> None:
        program = (
            "import sys; from scaleeq.folder_lock import FolderLock; lock = FolderLock(sys.argv[1]); lock.acquire(); "
            "print('held', flush=True); sys.stdin.read()"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", program, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "held\n"

    def __enter__(self) -> str:
        """How a refusal names it."""
        return f"is in use: process {self.process.pid} on {HOST}, since "

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def start_twice(folder: Path, *, watched: bool) -> None:
    """Two runs at once, until both have ended; AssertionError where not one ran, and one was refused."""
    for name in ("first", "second"):  # their consoles; the run's folder is one
        (folder / name).mkdir(parents=True)
        (folder / name / "run").symlink_to(folder / "run")
    (folder / "run").mkdir()
    attempts = [
        Attempt(folder / name / "run", arguments(folder / "run"), watched=watched) for name in ("first", "second")
    ]
    consoles = [folder / name / "console.txt" for name in ("first", "second")]
    assert all(attempt.wait(240.0) for attempt in attempts)
    refused, ran = sorted(range(2), key=lambda index: attempts[index].status == 0)
    texts = [console.read_text() for console in consoles]
    assert attempts[ran].status == 0 and attempts[refused].status == 2, texts
    last = texts[refused].strip().splitlines()[-1]
    assert f"{folder / 'run'} is in use: process {attempts[ran].pid} on {HOST}, since " in last, texts[refused]
    log = (folder / "run" / "log.txt").read_text()
    assert log.count("Rank of current process") == log.count("Starting training from iteration 0") == 1


@pytest.mark.slow
def test_of_two_runs_that_start_at_once_one_runs_as_if_alone(tmp_path, scenes):
    unbroken = run_unbroken(tmp_path / "unbroken", "float32")
    start_twice(tmp_path / "twice", watched=True)
    run = tmp_path / "twice" / "run"
    assert not damage(run) and not differences(unbroken.output_dir, run)
    assert whole_lines(run) == whole_lines(unbroken.output_dir) and not (run / RUNNING).exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_times_of_two_commands_one_runs(tmp_path, scenes):
    unbroken = run_unbroken(tmp_path / "unbroken", "float32", watched=False)
    for number in range(10):
        start_twice(tmp_path / str(number), watched=False)
        assert not differences(unbroken.output_dir, tmp_path / str(number) / "run"), number


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Each file's time and bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_refused_run_touches_nothing(tmp_path):
    folder = tmp_path / "run"
    cfg = tiny_config(folder)
    folder.mkdir()
    for name in ("log.txt", "config.yaml", "metrics.json", "scale_statistics.json", ".x.pth.node-1.part"):
        (folder / name).write_text(name)
    with Held(folder) as named:
        before = content(folder)
        for refused in (
            lambda: RunLock(cfg).acquire(),
            lambda: check_output_dir(cfg, resume=True),
            lambda: check_output_dir(cfg, resume=False),
            lambda: OneStep(cfg).resume_or_load(),
            lambda: OneStep(cfg).train(),
        ):
            with pytest.raises((FolderInUse, ValueError), match=re.escape(f"{folder} {named}")):
                refused()
        assert content(folder) == before
        with RunLock(cfg, eval_only=True) as warnings:  # an evaluation has a folder of its own
            assert warnings == []
    with RunLock(cfg) as warnings:
        assert warnings == [] and not (folder / ".x.pth.node-1.part").exists(), "nobody writes it any more"


def test_two_evaluations_in_one_folder(tmp_path):
    cfg = tiny_config(tmp_path, TEST__OUTPUT=["labels"])
    with Held(tmp_path / "inference") as named:
        for refused in (
            lambda: RunLock(cfg, eval_only=True).acquire(),
            lambda: check_output_dir(cfg, resume=True, eval_only=True),
            lambda: RunLock(cfg).acquire(),  # its evaluations write there, too
        ):
            with pytest.raises((FolderInUse, ValueError), match=re.escape(f"{tmp_path / 'inference'} {named}")):
                refused()
        assert FolderLock(tmp_path).holder() is None, "none of the locks is kept"
        with RunLock(tiny_config(tmp_path)):
            pass


def test_a_trainer_has_the_folder_from_its_loading_to_its_end(tmp_path):
    lock = FolderLock(tmp_path)
    trainer = OneStep(tiny_config(tmp_path, SOLVER__MAX_ITER=1, SOLVER__WARMUP_ITERS=0))
    assert lock.holder() is None
    trainer.resume_or_load(resume=False)
    assert lock.holder().pid == os.getpid()
    trainer.train()
    assert lock.holder() is None
    broken = OneStep(tiny_config(tmp_path, MODEL__WEIGHTS="absent.pth"))
    with pytest.raises(FileNotFoundError):
        broken.resume_or_load(resume=False)
    assert lock.holder() is None
    trainer = OneStep(tiny_config(tmp_path))
    trainer.resume_or_load(resume=False)
    del trainer  # built in a notebook, and given up
    gc.collect()
    assert lock.holder() is None


def test_a_warning_of_another_host_is_in_the_log(tmp_path, caplog):
    (tmp_path / RUNNING).write_text('{"host": "node7", "pid": 3, "since": "2020-01-01 00:00:00"}')
    OneStep(tiny_config(tmp_path)).resume_or_load(resume=False)
    assert "process 3 on node7" in caplog.text
