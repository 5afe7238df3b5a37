"""Two real processes (gloo) calibrate as one. Oracle: one process that sees all the batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaleeq import calibrate
from tests.equalization.test_calibration import NoNorm
from tests.equalization.two_processes import batches, measured

ROOT = Path(__file__).parents[2]


def test_two_processes_measure_what_one_does(tmp_path):
    command = [sys.executable, "-m", "tests.equalization.two_processes"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "ScaleEq"), "OMP_NUM_THREADS": "1"}
    ranks = [subprocess.Popen([*command, str(i), str(tmp_path)], cwd=ROOT, env=environment) for i in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    results = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert results[0] == results[1]  # every rank has the same bits
    model = NoNorm().double()
    report = calibrate(model, batches(), num_images=-1).to_dict()["fusion"]
    for name, values in measured(model).items():
        assert results[0]["measured"][name] == pytest.approx(values, rel=1e-12)
        assert results[0]["report"]["branches"][name]["num_images"] == 16
    expected = report["branches"]["a"]["relative_standard_error"]
    assert results[0]["report"]["branches"]["a"]["relative_standard_error"] == pytest.approx(expected, rel=1e-12)
