"""Runs of a model of two tasks: evaluation, best weights, resuming, records. Oracles: unbroken runs; one task alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scaleeq.training import Trainer, evaluate_only

from .test_joint import EQUALIZED, TASKS, config


def run(cfg, *, resume=False):
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer, trainer.train()


def states_of(folder):
    content = torch.load(folder / "model_final.pth", weights_only=True)
    return content["model"] | {f"ema.{name}": value for name, value in content.get("ema", {}).items()}


def test_it_trains_is_evaluated_and_keeps_its_best(tmp_path):
    single = tmp_path / "single.json"
    single.write_text(json.dumps({"sem_seg": {"mIoU": 2.0}, "mean_colour": {"mae": 0.4}}))
    keys = {"TEST__EVAL_PERIOD": 2, "SOLVER__MAX_ITER": 4, "MODEL__TASKS__WEIGHTS": [1.0, 3.0]}
    keys |= {"TEST__SINGLE_TASK_RESULTS": str(single), "TEST__BEST_METRIC": "mean_colour/mae"}
    out = tmp_path / "out"
    trainer, results = run(config(out, **EQUALIZED, **keys))
    assert set(results) == {"sem_seg", "mean_colour", "multi_task"}
    gains = (results["sem_seg"]["mIoU"] - 2.0) / 2.0, (0.4 - results["mean_colour"]["mae"]) / 0.4
    assert results["multi_task"]["delta_m"] == pytest.approx(100 * sum(gains) / 2)
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    names = ("total_loss", "loss_sem_seg", "loss_sem_seg_aux_res4", "loss_mean_colour")
    losses = {name: trainer.storage.history(name).latest() for name in names}
    expected = losses["loss_sem_seg"] + losses["loss_sem_seg_aux_res4"] + 3 * losses["loss_mean_colour"]
    assert losses["total_loss"] == pytest.approx(expected, rel=1e-5)
    best = json.loads((out / "model_best.json").read_text())
    errors = [line["mean_colour/mae"] for line in lines if "mean_colour/mae" in line]
    assert (best["metric"], best["value"]) == ("mean_colour/mae", pytest.approx(min(errors)))
    assert [line["multi_task/delta_m"] for line in lines if "multi_task/delta_m" in line]

    alone = config(out, **EQUALIZED, **keys, MODEL__WEIGHTS=str(out / "model_final.pth"))
    again = evaluate_only(alone, Trainer)
    assert again["multi_task"]["delta_m"] == pytest.approx(results["multi_task"]["delta_m"])
    record = json.loads((out / "inference" / "results.json").read_text())
    assert len(record["single_task_results"]["sha256"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"MODEL__TASKS__WEIGHTING": "uncertainty", "SOLVER__EMA_DECAY": 0.9},
        {"MODEL__TASKS__WEIGHTING": "pcgrad", "SOLVER__ACCUMULATE": 2, "SOLVER__IMS_PER_BATCH": 4},
        {"SOLVER__AMP__ENABLED": True, "MODEL__TASKS__SHARE": "decoder", "TEST__AUG__ENABLED": True},
    ],
    ids=["uncertainty", "pcgrad", "bfloat16"],
)
def test_a_resumed_run_ends_as_the_unbroken_one(tmp_path, changes):
    changes = {**changes, **EQUALIZED, "SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__MAX_ITER": 3}
    check_resumed(config(tmp_path / "whole", **changes), config(tmp_path / "broken", **changes))


def check_resumed(whole, broken):
    """Two configs of one run in two folders: the second one, stopped and resumed, ends as the first to the bit."""
    _, results = run(whole)
    run_two_steps(broken)
    _, resumed = run(broken, resume=True)
    expected, found = (states_of(Path(cfg.OUTPUT_DIR)) for cfg in (whole, broken))
    assert expected.keys() == found.keys() and all(torch.equal(found[key], value) for key, value in expected.items())
    assert resumed == results


def run_two_steps(cfg):
    """As a kill leaves it: after the checkpoint of the second iteration."""

    class Killed(Exception):
        pass

    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    step = trainer.run_step

    def stop_before_the_third():
        if trainer.iter == 2:
            raise Killed
        step()

    trainer.run_step = stop_before_the_third
    with pytest.raises(Killed):
        trainer.train()


def test_the_record_says_which_task_pulls_a_branch(tmp_path):
    """A branch's gradient is the weighted sum of the tasks': with one task's weight near 0, that of the other."""
    gradients = []
    for weights in ([1.0, 1e-6], [1e-6, 1.0]):
        out = tmp_path / str(weights[0])
        run(
            config(
                out, MODEL__TASKS__WEIGHTS=weights, SOLVER__MAX_ITER=2, SOLVER__ACCUMULATE=2, SOLVER__IMS_PER_BATCH=4
            )
        )
        gradients.append(json.loads((out / "scale_statistics.json").read_text())["at_start"]["fusions"])
    for record, task in zip(gradients, TASKS, strict=True):
        for name, fusion in record.items():
            for numbers in fusion["branches"].values():
                own = {key for key in numbers if key.endswith(tuple(f"_gradient_{task}" for task in TASKS))}
                if not name.startswith("decoders.shared."):
                    assert not own, "the others have one task alone"
                    continue
                assert numbers[f"map_gradient_{task}"] == pytest.approx(numbers["map_gradient"], rel=1e-2)
                if "weight_gradient" in numbers:
                    assert numbers[f"weight_gradient_{task}"] == pytest.approx(numbers["weight_gradient"], rel=1e-2)
    whole, parts = ({name for name in each if "shared" in name} for each in gradients)
    assert whole == parts and len(whole) == 4


def test_watching_changes_no_bit(tmp_path):
    for name, period in (("watched", 1), ("not", 0)):
        run(config(tmp_path / name, MODEL__SCALE_EQUALIZER__STATISTICS_PERIOD=period))
    watched, plain = states_of(tmp_path / "watched"), states_of(tmp_path / "not")
    assert all(torch.equal(watched[name], value) for name, value in plain.items())
