"""Every file of configs/ablations: its variants are models that can be built, and it says what it asks."""

from __future__ import annotations

from pathlib import Path

import pytest

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.equalization.calibration import fusions_of
from scaleeq.experiments.plan import read_plan
from scaleeq.training.on_meta import build_on_meta
from scaleeq.training.setup import check_schedule
from scaleeq.training.step import micro_batch_size

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "ablations").glob("*.yaml"))


def test_there_are_files():
    assert {path.stem for path in FILES} == {"camvid_adamw", "joint_toy", "toy_detection", "toy_sgd"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_variant_can_be_built(path):
    plan = read_plan(path)
    built = set()
    for variant in plan.variants:
        cfg = variant.load()
        if (model_keys := cfg.MODEL.dump()) not in built:
            built.add(model_keys)
            equalized = bool(fusions_of(build_on_meta(cfg)))
            assert equalized == cfg.MODEL.SCALE_EQUALIZER.ENABLED, f"{variant.name}: equalizers"
        check_schedule(cfg)
        micro_batch_size(cfg, world_size=1)
        assert cfg.SOLVER.MAX_ITER % cfg.TEST.EVAL_PERIOD == 0
    compared = {*plan.baselines, *plan.baselines.values()}
    assert compared == {variant.name for variant in plan.variants}, "each is compared, or a baseline"
    assert len(plan.seeds) >= 5


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_first_lines_say_what_it_asks(path):
    comment = read_plan(path).comment.splitlines()
    assert comment[0].startswith("Question: ")
    assert comment[-2].startswith("Command: ") and comment[-2].endswith(f"configs/ablations/{path.name}")
    assert comment[-1].startswith("Results: ")
