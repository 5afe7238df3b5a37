"""`make gpu`: one line where there is no device; else each step runs, whatever became of the one before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evidence import gpu

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_device_it_is_one_line():
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'projects' / 'ScaleEq'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "evidence.gpu"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: there is no CUDA device")


def test_a_step_that_fails_does_not_stop_the_next(tmp_path, capsys):
    runner = tmp_path / "run.sh"
    runner.write_text('"$@"\n')
    commands = {"bad": ["sh", "-c", "echo lost; exit 3"], "good": ["echo", "fine"], "long": ["sleep", "30"]}
    assert gpu.run_all(commands, runner, tmp_path, seconds=3) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("bad: exit code 3") and lines[1].startswith("good: exit code 0")
    assert lines[2].startswith("long: stopped")
    assert (tmp_path / "bad.log").read_text() == "lost\n" and (tmp_path / "good.log").read_text() == "fine\n"
    assert gpu.run_all({"good": commands["good"]}, runner, tmp_path, seconds=3) == 0
    assert gpu.run_all({"late": commands["good"]}, runner, tmp_path, seconds=0) == 1


def test_what_is_run_exists(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=r"missing\.sh is missing; gather \.gpu/"):
        gpu.refuse(ROOT / "missing.sh")
    commands = gpu.steps(Path("out"), 2)
    assert (ROOT / gpu.ARMS).is_file() and list(commands) == ["tests", "decoders", "camvid"]
