"""Two real processes (gloo) train an accelerated model. Oracle: one process that trains the plain one on all images."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from .ddp_rank import STEPS, batches, make_model, train_on

ROOT = Path(__file__).parents[2]


def test_two_processes_train_an_accelerated_model_as_one_trains_the_plain_one(tmp_path):
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'projects' / 'ScaleEq'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.rewrites.ddp_rank"]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=250)[1].decode() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(errors)

    oracle = make_model()
    train_on(oracle, batches())
    seen = [torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in range(2)]
    assert [rank["per_branch"] for rank in seen] == [STEPS - 1] * 2  # the first forward is looked at
    for key, value in oracle.state_dict().items():
        torch.testing.assert_close(seen[0]["model"][key], value, rtol=0, atol=1e-9)
        assert torch.equal(seen[0]["model"][key], seen[1]["model"][key])
