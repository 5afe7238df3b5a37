"""Two real processes (gloo) equalize and train as one. Oracle: one process that sees all the images."""

from __future__ import annotations

import pytest
import torch

from scaleeq import equalize
from tests.equalization.any_net import make_batches
from tests.equalization.foreign_rank import RATE, make_model
from tests.two_ranks import run_ranks, train_on


def test_two_processes_equalize_and_train_as_one(tmp_path):
    seen = run_ranks("tests.equalization.foreign_rank", tmp_path)
    model = make_model()
    batches = make_batches(4)
    report = equalize(model, batches, num_images=-1)
    train_on(model, batches, RATE)
    assert seen[0]["report"] == seen[1]["report"]
    for name, branches in report.fusions.items():
        for branch, statistics in branches.items():
            theirs = seen[0]["report"][name]["branches"][branch]
            assert theirs["std"] == pytest.approx(statistics.std, rel=1e-12)
            assert theirs["num_images"] == statistics.num_images == 16
    for key, value in model.state_dict().items():
        torch.testing.assert_close(seen[0]["model"][key], value, rtol=0, atol=1e-9)
        assert torch.equal(seen[0]["model"][key], seen[1]["model"][key])
