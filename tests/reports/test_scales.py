"""The report of a config, and records inside the trainer. Oracles: calibration's statistics; a run without records."""

from __future__ import annotations

import json

import pytest
import torch

from scaleeq.probes.scales import SPREADS
from scaleeq.reports.scales_analysis import analyze_scales
from scaleeq.reports.scales_page import page
from scaleeq.training import Trainer
from tests.tasks import test_joint as joint
from tests.training.tiny import OneStep, tiny_config

NUMBERS = {
    "source_mean", "source_std", "source_correlation_y", "source_correlation_x", "mean", "std", "correlation_y",
    "correlation_x", "std_predicted", "energy_share", "weight_gradient", "relative_step", "map_gradient",
}  # fmt: skip


def test_the_report_measures_the_model_and_its_equalized_copy(tmp_path):
    cfg = tiny_config(tmp_path, MODEL__AUX_HEAD__IN_FEATURES=[], MODEL__AUX_HEAD__LOSS_WEIGHTS=[])
    report = analyze_scales(cfg, num_batches=1)
    json.dumps(report)
    assert report["about"]["batches"] == 1 and report["about"]["batch"] == 2
    last = report["fusions"]["sem_seg_head.fusion"]
    assert last["title"] == "UPerHead, fusion" and last["verdict"].startswith(last["title"])
    assert set(last["raw"]["branches"]["res3"]) == NUMBERS
    assert set(last["raw"]) == {"branches", *SPREADS} - {"spread_equalized"}
    for numbers in last["equalized"]["branches"].values():
        assert numbers["std_equalized"] == pytest.approx(1, rel=1e-4)  # calibrated on what is measured
    context = report["fusions"]["sem_seg_head.context"]
    stds = [[branch["std"] for branch in context[key]["branches"].values()] for key in ("raw", "equalized")]
    assert stds[0] == pytest.approx(stds[1], rel=1e-5)  # the weights before it are the same
    merge = report["fusions"]["sem_seg_head.pyramid.merges.res4"]
    assert merge["equalized"] is None and "SCOPE" in merge["verdict"]
    again = analyze_scales(cfg, num_batches=1)
    assert again == report  # nothing random is left

    equalized = tiny_config(tmp_path, MODEL__SCALE_EQUALIZER__ENABLED=True, MODEL__SCALE_EQUALIZER__SCOPE="all")
    report = analyze_scales(equalized, num_batches=1)
    assert all(fusion["equalized"] == fusion["raw"] for fusion in report["fusions"].values())


def test_the_report_says_which_task_pulls_what_several_share(tmp_path):
    """Oracle: a report with the other task's weight near 0, whose gradient is that of the one alone."""
    for batches in (1, 2):
        keys = {"MODEL__TASKS__WEIGHTS": [1.0, 1e-6], "MODEL__SCALE_EQUALIZER__STATISTIC": "grad"}
        cfg = joint.config(tmp_path, **joint.PLAIN_HEADS, **keys)
        report = analyze_scales(cfg, num_batches=batches)
        for name, fusion in report["fusions"].items():
            numbers = fusion["raw"]["branches"].values()
            if not name.startswith("decoders.shared."):
                assert not fusion["pull"] and not any("_gradient_sem_seg" in key for each in numbers for key in each)
                continue
            assert (
                fusion["pull"].startswith("sem_seg pulls most: ") and "sem_seg 100 %, mean_colour 0 %" in fusion["pull"]
            )
            assert fusion["pull"].endswith("STATISTIC 'grad' balances their total, and so depends on these weights.")
            for each in numbers:
                assert each["map_gradient_sem_seg"] == pytest.approx(each["map_gradient"], rel=1e-2)
                if each.get("weight_gradient") is not None:  # a sum has no weights of its own
                    assert each["weight_gradient_sem_seg"] == pytest.approx(each["weight_gradient"], rel=1e-2)
        assert "map gradient, mean_colour" in page(report) and "sem_seg pulls most" in page(report)


def test_nothing_to_measure_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--batches is 0"):
        analyze_scales(tiny_config(tmp_path), num_batches=0)
    with pytest.raises(ValueError, match="gave no batch"):
        analyze_scales(tiny_config(tmp_path), loader=[])


def test_recording_leaves_every_bit_of_a_training(tmp_path):
    """Mixed precision, two micro-batches, clipped gradients, equalizers."""
    trained = []
    for period in (0, 1):
        cfg = tiny_config(
            tmp_path / str(period), MODEL__SCALE_EQUALIZER__ENABLED=True,
            MODEL__SCALE_EQUALIZER__STATISTICS_PERIOD=period, SOLVER__AMP__ENABLED=True,
            SOLVER__ACCUMULATE=2, SOLVER__IMS_PER_BATCH=4, SOLVER__MAX_ITER=2, SOLVER__CLIP_GRADIENTS__ENABLED=True,
        )  # fmt: skip
        torch.manual_seed(0)  # of the initial weights
        trainer = Recorded(cfg) if period else OneStep(cfg)
        trainer.train()
        trained.append(trainer.model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])
    content = json.loads((tmp_path / "1" / "scale_statistics.json").read_text())
    assert [record["iteration"] for record in content["history"]] == [0, 1]
    branch = content["at_end"]["fusions"]["sem_seg_head.fusion"]["branches"]["res3"]
    assert set(branch) == NUMBERS | {"std_equalized", "energy_share_equalized"}


class Recorded(OneStep):
    """OneStep, and the records."""

    def build_hooks(self):
        wanted = [type(hook).__name__ for hook in OneStep.build_hooks(self)]
        return [hook for hook in Trainer.build_hooks(self) if type(hook).__name__ in [*wanted, "ScaleStatisticsHook"]]
