"""What the NORM keys stand for, alone and in a job of two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from scaleeq.engine import NaiveSyncBatchNorm
from scaleeq.layers.norm import BatchNorm2d
from scaleeq.tasks.configured import resolve_norm

ROOT = Path(__file__).parents[2]


def test_one_process_has_nobody_to_share_statistics_with():
    for name, kind in (("BN", BatchNorm2d), ("SyncBN", BatchNorm2d), ("GN", nn.GroupNorm)):
        norm = resolve_norm(name)
        assert norm is not None and isinstance(norm(64), kind)
    assert resolve_norm("") is None


@pytest.mark.slow
def test_two_processes_share_their_statistics(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'projects' / 'ScaleEq'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.tasks.resolved_norm", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == [NaiveSyncBatchNorm.__name__] * 2
    assert "file://" not in done.stderr, "one machine: nothing to warn of"
