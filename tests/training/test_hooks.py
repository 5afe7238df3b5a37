"""The memory of evaluations over kills and resumes, early stop; the finite view of an endless loader.

Oracle: a run that nothing interrupted.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import weakref

import pytest
import torch

from scaleeq.engine import PeriodicCheckpointer, SafeCheckpointer, TrainerBase
from scaleeq.tasks.metric import HEADLINE
from scaleeq.training.hooks import (
    BestCheckpoint,
    EarlyStop,
    EvaluationHook,
    FirstBatches,
    MissedEvaluation,
    StopTraining,
)

NAN = math.nan


class Killed(BaseException):
    """As a kill does, it leaves the files as they are: no hook's after_train follows."""


class Scored(TrainerBase):
    """Its only weight is the number of the iteration; its score after each evaluation is that iteration's."""

    def __init__(self, output_dir, scores, *, eval_period=1, patience=0, metric="mIoU", killed_in=None):
        super().__init__()
        self.model = torch.nn.Linear(1, 1, bias=False)
        self.scores, self.metric, self.killed_in = scores, metric, killed_in
        self.evaluations, self.steps = [], []
        self.checkpointer = SafeCheckpointer(self.model, str(output_dir), trainer=self)
        evaluation = EvaluationHook(eval_period, self.evaluate)
        best = BestCheckpoint(lambda: (self.model, "trained"), str(output_dir), metric=HEADLINE)
        stop = None
        if patience:
            stop = EarlyStop(self.checkpointer, best, metric=HEADLINE, patience=patience, eval_period=eval_period)
        self.register_hooks(
            [
                PeriodicCheckpointer(self.checkpointer, 1),
                evaluation,
                best,
                MissedEvaluation(evaluation, best),
                stop,
            ]
        )

    def evaluate(self):
        iteration = self.storage.iter  # one that a kill took is made before the iteration that comes
        if iteration == self.killed_in:
            raise Killed
        self.evaluations.append(iteration)
        return {"sem_seg": {self.metric: self.scores[min(iteration, len(self.scores) - 1)]}}

    def run_step(self):
        self.steps.append(self.iter)
        with torch.no_grad():
            self.model.weight.fill_(self.iter)

    def after_train(self):
        if self.iter != self.killed_in:
            super().after_train()

    def resume(self, max_iter):
        self.checkpointer.resume_or_load("", resume=True)
        self.train(self.iter + 1, max_iter)
        return self


def record(output_dir):
    return json.loads((output_dir / "model_best.json").read_text())


def best(output_dir):
    """Score and iteration on file, and the weight beside them."""
    weights = torch.load(output_dir / "model_best.pth", weights_only=True)
    known = record(output_dir)
    assert weights["weights_kind"] == "trained"
    assert (weights["sem_seg/mIoU"], weights["iteration"]) == (known["value"], known["iteration"])
    return known["value"], known["iteration"], weights["model"]["weight"].item()


def test_best_is_kept_and_replaced_only_by_a_better_one(tmp_path):
    Scored(tmp_path, [10.0, 30.0, NAN, 20.0]).train(0, 4)
    assert best(tmp_path) == (30.0, 1, 1.0)
    assert record(tmp_path)["evaluated"] == 4  # the last evaluation comes after the last iteration


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
    Scored(tmp_path, [10.0, 5.0]).train(0, 2)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    assert best(tmp_path)[1] == 0


def test_no_number_is_no_best(tmp_path):
    Scored(tmp_path, [NAN]).train(0, 2)
    assert record(tmp_path) == {"metric": "sem_seg/mIoU", "value": None, "iteration": -1, "evaluated": 2}
    assert not (tmp_path / "model_best.pth").exists()
    Scored(tmp_path, [NAN, NAN, 5.0]).train(2, 3)
    assert best(tmp_path)[0] == 5.0


def test_a_best_with_nan_in_a_buffer_is_not_written(tmp_path):
    trainer = Scored(tmp_path, [10.0])
    trainer.train(0, 1)
    before = (tmp_path / "model_best.pth").read_bytes()
    trainer = Scored(tmp_path / "other", [90.0])
    trainer.model.register_buffer("running_var", torch.tensor([NAN]))
    for hook in trainer._hooks:
        if isinstance(hook, BestCheckpoint):
            hook._weights_file = tmp_path / "model_best.pth"
    with pytest.raises(FloatingPointError, match=r"^running_var of 'model' is not finite: .*model_best\.pth is not wr"):
        trainer._hooks = trainer._hooks[1:]  # the PeriodicCheckpointer would say so first
        trainer.train(0, 1)
    assert (tmp_path / "model_best.pth").read_bytes() == before


ODD_RECORDS = {
    "empty": b"",
    "binary": bytes(range(256)),
    "null": b"null",
    "list": b"[1]",
    "cut": b'{"metric": "sem_seg/mIoU", "val',
    "no_value": b'{"metric": "sem_seg/mIoU"}',
    "text": b'{"metric": "sem_seg/mIoU", "value": "9", "iteration": 0, "evaluated": 0}',
    "nan": b'{"metric": "sem_seg/mIoU", "value": NaN, "iteration": 0, "evaluated": 0}',
    "infinite": b'{"metric": "sem_seg/mIoU", "value": 1e999, "iteration": 0, "evaluated": 0}',
    "null_iteration": b'{"metric": "sem_seg/mIoU", "value": 9.0, "iteration": null, "evaluated": 0}',
    "deep": b"[" * 100000,
    "folder": None,
    "pipe": None,
}


@pytest.mark.parametrize("kind", ODD_RECORDS)
def test_an_odd_record_is_named_and_taken_as_missing(kind, tmp_path, caplog):
    Scored(tmp_path, [10.0, 30.0]).train(0, 2)
    file = tmp_path / "model_best.json"
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.write_bytes(ODD_RECORDS[kind])
    Scored(tmp_path, [0.0, 0.0, 20.0]).resume(3)
    assert [str(file) in each.message for each in caplog.records if each.levelname == "WARNING"] == [True]
    assert best(tmp_path) == (20.0, 3, 2.0)  # by what is known, it is the best
    assert file.is_file()


# ---------------------------------------------------------------------------------------------------- kills

SCORES = [10.0, 20.0, 30.0, 90.0, 40.0, 50.0]


@pytest.mark.parametrize("killed_in", [1, 3])
def test_an_evaluation_that_a_kill_took_is_made_up_for(tmp_path, killed_in):
    Scored(tmp_path / "whole", SCORES, eval_period=2).train(0, 6)
    with pytest.raises(Killed):
        Scored(tmp_path / "killed", SCORES, eval_period=2, killed_in=killed_in).train(0, 6)
    resumed = Scored(tmp_path / "killed", SCORES, eval_period=2).resume(6)
    assert resumed.steps == list(range(killed_in + 1, 6))
    assert resumed.evaluations == [killed_in, *range(killed_in + 2, 5, 2), 6]
    assert record(tmp_path / "killed") == record(tmp_path / "whole")
    assert best(tmp_path / "killed") == best(tmp_path / "whole") == (90.0, 3, 3.0)


def test_an_evaluation_on_record_is_not_made_again(tmp_path):
    Scored(tmp_path, SCORES, eval_period=2).train(0, 4)
    assert Scored(tmp_path, SCORES, eval_period=2).resume(6).evaluations == [6]


def test_an_evaluation_before_a_kill_is_not_made_again(tmp_path):
    class KilledInStep(Scored):
        def run_step(self):
            if self.iter == self.killed_in:
                raise Killed
            super().run_step()

    with pytest.raises(Killed):
        KilledInStep(tmp_path, SCORES, eval_period=2, killed_in=4).train(0, 6)
    assert record(tmp_path)["evaluated"] == 3
    resumed = Scored(tmp_path, SCORES, eval_period=2).resume(6)
    assert (resumed.steps, resumed.evaluations) == ([4, 5], [6])


def test_a_kill_between_the_weights_and_their_record_costs_one_evaluation(tmp_path):
    run = Scored(tmp_path, SCORES, eval_period=2, killed_in=4)
    run.train(0, 4)
    known = record(tmp_path)
    (tmp_path / "model_best.json").write_text(json.dumps(known | {"value": 20.0, "iteration": 1, "evaluated": 1}))
    assert Scored(tmp_path, SCORES, eval_period=2).resume(6).evaluations == [3, 6]
    assert best(tmp_path) == (90.0, 3, 3.0)


# ---------------------------------------------------------------------------------------------------- early stop


def stopped(output_dir, scores, **options):
    """Trains up to 20 iterations with an evaluation every 2; the trainer, stopped early."""
    trainer = Scored(output_dir, scores, eval_period=2, **options)
    with pytest.raises(StopTraining):
        trainer.train(0, 20)
    return trainer


def test_training_stops_after_so_many_evaluations_without_a_new_best(tmp_path):
    scores = [0.0, 10.0, 0.0, 30.0, 0.0, 20.0, 0.0, 30.0, 0.0, 99.0]
    trainer = stopped(tmp_path, scores, patience=2)
    assert trainer.evaluations == [1, 3, 5, 7]  # an equal score is no better one
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert (final["iteration"], final["trainer"]["iteration"], final["model"]["weight"].item()) == (7, 7, 7.0)
    assert best(tmp_path) == (30.0, 3, 3.0)


def test_without_any_number_training_stops_as_well(tmp_path):
    assert stopped(tmp_path, [NAN], patience=3).evaluations == [1, 3, 5]


def test_a_run_that_stopped_stops_at_once_when_resumed(tmp_path):
    stopped(tmp_path, [9.0, 9.0, 1.0], patience=1)
    final = (tmp_path / "model_final.pth").read_bytes()
    trainer = Scored(tmp_path, [9.0, 9.0, 1.0], eval_period=2, patience=1)
    with pytest.raises(StopTraining) as error:
        trainer.resume(20)
    assert error.value.at_start
    assert not trainer.steps
    assert (tmp_path / "model_final.pth").read_bytes() == final


def test_a_kill_in_the_evaluation_that_would_have_stopped_the_run(tmp_path):
    scores = [0.0, 30.0, 0.0, 20.0, 0.0, 20.0]
    stopped(tmp_path / "whole", scores, patience=2)
    with pytest.raises(Killed):
        Scored(tmp_path / "killed", scores, eval_period=2, patience=2, killed_in=5).train(0, 20)
    trainer = Scored(tmp_path / "killed", scores, eval_period=2, patience=2)
    with pytest.raises(StopTraining):
        trainer.resume(20)
    assert (trainer.evaluations, trainer.steps) == ([5], [])
    for name in ("model_final.pth", "model_best.pth"):
        files = [torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "killed")]
        assert files[0] == files[1]
    assert record(tmp_path / "whole") == record(tmp_path / "killed")


def test_a_record_from_after_the_checkpoint_stops_nothing_too_early(tmp_path):
    """Killed between the record of the stopping evaluation and model_final, with older checkpoints only."""
    scores = [0.0, 30.0, 0.0, 20.0, 0.0, 20.0]
    stopped(tmp_path, scores, patience=2)
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    trainer = Scored(tmp_path, scores, eval_period=2, patience=2)
    with pytest.raises(StopTraining):
        trainer.resume(20)
    assert trainer.steps == [3, 4, 5]
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 5


def test_early_stop_needs_the_metric(tmp_path):
    with pytest.raises(RuntimeError, match=r"sem_seg/mIoU.*iteration 1 gave none"):
        Scored(tmp_path, [1.0], eval_period=2, patience=2, metric="other").train(0, 8)


def test_the_last_evaluation_stops_nothing(tmp_path):
    trainer = Scored(tmp_path, [9.0, 9.0, 1.0], eval_period=2, patience=1)
    trainer.train(0, 4)
    assert trainer.evaluations == [1, 4]


# ---------------------------------------------------------------------------------------------------- loader


@pytest.mark.parametrize("num_batches", [0, 3])
def test_first_batches_can_be_iterated_again(num_batches):
    class Endless:
        def __iter__(self):
            return itertools.count()

    batches = FirstBatches(Endless(), num_batches)
    assert list(batches) == list(batches) == list(range(num_batches))


def test_a_trainer_that_is_over_is_given_back_at_once(tmp_path):
    """With its model and its averages, which may fill a GPU: no collection of circles has to come first."""

    class Owner:
        model = torch.nn.Linear(1, 1)

        def evaluated_model(self):
            return self.model, "trained"

    owner = Owner()
    gone, trainer = weakref.ref(owner), Scored(tmp_path, [1.0])
    owner.hook = BestCheckpoint(owner.evaluated_model, str(tmp_path), metric=HEADLINE)
    trainer.register_hooks([owner.hook])
    trainer.train(0, 1)
    del trainer, owner
    assert gone() is None
