"""Two real processes (gloo) train an accelerated model. Oracle: one process that trains the plain one on all images."""

from __future__ import annotations

import torch

from tests.two_ranks import run_ranks, train_on

from .ddp_rank import RATE, STEPS, batches, make_model


def test_two_processes_train_an_accelerated_model_as_one_trains_the_plain_one(tmp_path):
    seen = run_ranks("tests.rewrites.ddp_rank", tmp_path)
    oracle = make_model()
    train_on(oracle, batches(), RATE)
    assert [rank["per_branch"] for rank in seen] == [STEPS - 1] * 2  # the first forward is looked at
    for key, value in oracle.state_dict().items():
        torch.testing.assert_close(seen[0]["model"][key], value, rtol=0, atol=1e-9)
        assert torch.equal(seen[0]["model"][key], seen[1]["model"][key])
