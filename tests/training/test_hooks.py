"""The best checkpoint, also over a resume; the finite view of an endless loader."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from scaleeq.engine import EvalHook, TrainerBase
from scaleeq.training.hooks import BestCheckpoint, FirstBatches


class Scored(TrainerBase):
    """Its only weight is the number of the iteration; its score after each iteration is given."""

    def __init__(self, output_dir, scores):
        super().__init__()
        self.model = torch.nn.Linear(1, 1, bias=False)
        evaluate = EvalHook(1, lambda: {"sem_seg": {"mIoU": scores[min(self.iter, len(scores) - 1)]}})
        self.register_hooks([evaluate, BestCheckpoint(self.model, str(output_dir))])

    def run_step(self):
        with torch.no_grad():
            self.model.weight.fill_(self.iter)


def best(output_dir):
    """Score and iteration on file, and the weight beside them."""
    record = json.loads((output_dir / "model_best.json").read_text())
    weight = torch.load(output_dir / "model_best.pth", weights_only=True)["model"]["weight"].item()
    return record["value"], record["iteration"], weight


def test_best_is_kept_and_replaced_only_by_a_better_one(tmp_path):
    Scored(tmp_path, [10.0, 30.0, math.nan, 20.0]).train(0, 4)
    assert best(tmp_path) == (30.0, 1, 1.0)


def test_best_survives_a_resume(tmp_path):
    Scored(tmp_path, [10.0, 30.0]).train(0, 2)
    Scored(tmp_path, [0.0, 0.0, 25.0, 20.0]).train(2, 4)
    assert best(tmp_path)[0] == 30.0
    Scored(tmp_path, [0.0, 0.0, 0.0, 0.0, 35.0, 40.0]).train(4, 6)
    assert best(tmp_path)[0::2] == (40.0, 5.0)


def test_a_fresh_run_forgets_the_best_of_an_earlier_one(tmp_path):
    Scored(tmp_path, [90.0]).train(0, 1)
    Scored(tmp_path, [10.0]).train(0, 1)
    assert best(tmp_path)[0] == 10.0


def test_best_does_not_redirect_resuming(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    Scored(tmp_path, [10.0]).train(0, 1)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


@pytest.mark.parametrize("num_batches", [0, 3])
def test_first_batches_can_be_iterated_again(num_batches):
    class Endless:
        def __iter__(self):
            return itertools.count()

    batches = FirstBatches(Endless(), num_batches)
    assert list(batches) == list(batches) == list(range(num_batches))
