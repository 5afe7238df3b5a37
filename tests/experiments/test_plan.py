"""The file of a comparison: what it means, and what is refused with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scaleeq.engine import load_config
from scaleeq.experiments.metrics import find_metric
from scaleeq.experiments.plan import read_plan

ROOT = Path(__file__).parents[2]
BASE = str(ROOT / "configs" / "toy" / "fpn.yaml")
FILE = {
    "base": BASE,
    "overrides": {"SOLVER.MAX_ITER": 400},
    "seeds": [3, 1],
    "baseline": "off",
    "variants": {
        "off": {},
        "equalized": {"MODEL.SCALE_EQUALIZER.ENABLED": True},
        "wide": {"MODEL.PYRAMID.CHANNELS": 96},
    },
}


def plan_of(folder, changes=None, **options):
    path = folder / "comparison.yaml"
    path.write_text("# Why?\n# Because.\n" + yaml.safe_dump({**FILE, **(changes or {})}, sort_keys=False))
    return read_plan(path, **options)


def test_what_a_file_means(tmp_path):
    plan = plan_of(tmp_path)
    assert (plan.name, plan.metrics, plan.comment) == ("comparison", ["sem_seg/mIoU"], "Why?\nBecause.")
    runs = [(variant.name, seed) for variant, seed in plan.runs()]
    assert runs == [(name, seed) for seed in (3, 1) for name in ("off", "equalized", "wide")], "seed by seed"
    assert plan.baselines == {"equalized": "off", "wide": "off"}
    assert plan.differing_keys() == {
        name: {"MODEL.PYRAMID.CHANNELS": width, "MODEL.SCALE_EQUALIZER.ENABLED": enabled}
        for name, width, enabled in (("off", 64, False), ("equalized", 64, True), ("wide", 96, False))
    }
    assert plan_of(tmp_path, seeds=[7]).seeds == (7,)


def test_the_words_of_a_run_give_its_config(tmp_path):
    """What is checked here and what the training command reads is one config: values of every type."""
    values = {
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3"],
        "INPUT.CROP.SIZE": [32, 64],
        "WANDB.NAME": "",
        "SEED": 4,
    }
    changes = {"overrides": {key: value for key, value in values.items() if key != "SEED"}, "seeds": [4]}
    variant = plan_of(tmp_path, changes).variants[1]
    words = variant.options(4, tmp_path / "run")
    assert all(isinstance(word, str) for word in words)
    cfg = load_config(variant.config, words)
    for key, value in values.items():
        node = cfg
        for part in key.split("."):
            node = node[part]
        assert node == value
    assert str(tmp_path / "run") == cfg.OUTPUT_DIR and cfg.MODEL.SCALE_EQUALIZER.ENABLED is True
    assert list(cfg.TEST.EXPECTED_RESULTS) == [], "a base's expectation is not a variant's"


def test_off_and_on_are_names(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        f"base: {BASE}\nseeds: [0]\nbaseline: off\nvariants: {{off: {{}}, on: {{MODEL.SCALE_EQUALIZER.ENABLED: on}}}}\n"
    )
    plan = read_plan(path)
    assert [variant.name for variant in plan.variants] == ["off", "on"] and plan.baselines == {"on": "off"}
    assert plan.variants[1].load().MODEL.SCALE_EQUALIZER.ENABLED is True


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "own.yaml").write_text(f"_BASE_: {BASE}\nSEED: 3\n")
    variants = {"off": {}, "own": {"config": "own.yaml", "SOLVER.BASE_LR": 0.5}}
    plan = plan_of(tmp_path, {"variants": variants})
    cfg = plan.variants[1].load(seed=1)
    assert (cfg.SEED, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (1, 0.5, 400)


def test_variants_may_have_baselines_of_their_own(tmp_path):
    assert plan_of(tmp_path, {"baseline": {"wide": "equalized"}}).baselines == {"wide": "equalized"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"varients": {}}, KeyError, "did you mean variants"),
        ({"variants": {"off": {}, "a": {"MODEL.SCALE_EQUALISER.ENABLED": True}}}, KeyError, "variant a.*did you mean"),
        ({"variants": {"off": {}, "a": {"SOLVER.MAX_ITER": "many"}}}, ValueError, "variant a.*SOLVER.MAX_ITER"),
        ({"variants": {"off": {}, "a": {"SOLVER.MAX_ITER": 400}}}, ValueError, "off and a are the same config"),
        ({"variants": {"off": {}}}, ValueError, "two or more"),
        ({"variants": ["off", "a"]}, ValueError, "keys with values"),
        ({"variants": {"off": {}, "a/b": {"SOLVER.BASE_LR": 0.5}}}, ValueError, "a folder's too"),
        ({"variants": {"off": {}, "a": {"SEED": 1}}}, ValueError, "sets SEED.*use seeds"),
        ({"overrides": {"OUTPUT_DIR": "x"}}, ValueError, "sets OUTPUT_DIR.*--output"),
        ({"variants": {"off": {}, "a": {"DATASETS.TEST": []}}}, ValueError, "DATASETS.TEST is empty"),
        ({"variants": {"off": {}, "a": {"config": "no.yaml"}}}, FileNotFoundError, "variant a.*no.yaml"),
        ({"base": None}, ValueError, "no config; set base"),
        ({"baseline": "none"}, ValueError, "no variant; choose one of off, equalized, wide"),
        ({"baseline": None}, ValueError, "name one of off, equalized, wide"),
        ({"baseline": {"wide": "wide"}}, ValueError, "its own baseline"),
        ({"seeds": [1, 1]}, ValueError, "different whole numbers"),
        ({"seeds": [-1]}, ValueError, "different whole numbers"),
        ({"seeds": 3}, ValueError, "different whole numbers"),
        ({"_BASE_": BASE}, ValueError, "no _BASE_"),
        ({"metric": []}, ValueError, "metric is .*give one name, such as depth/rmse, or a list of different ones"),
        ({"metric": ["a/b", "a/b"]}, ValueError, "list of different ones"),
        ({"metric": "depth/rmse"}, ValueError, r"variant off has the tasks .*sem_seg.*add sem_seg/mIoU to metric"),
    ],
)
def test_mistakes_are_told_with_the_way_out(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        plan_of(tmp_path, changes)


# --- several tasks ---

TASKS = {
    "joint": {"MODEL.TASKS.NAMES": ["depth", "normals"], "MODEL.TASKS.WEIGHTS": [1.0, 10.0]},
    "depth": {},
    "normals": {"MODEL.TASKS.NAMES": ["normals"]},
}
SEVERAL = {
    "base": str(ROOT / "configs" / "toy" / "depth.yaml"),
    "baseline": {"joint": "depth"},
    "variants": TASKS,
    "single_tasks": {"joint": ["depth", "normals"]},
}


def test_metrics_are_the_headlines_of_the_tasks(tmp_path):
    plan = plan_of(tmp_path, SEVERAL)
    assert plan.metrics == ["depth/rmse", "normals/mean"] and plan.single_tasks == {
        "joint": {"depth": "depth", "normals": "normals"}
    }
    assert plan.measured == {"joint": tuple(plan.metrics), "depth": ("depth/rmse",), "normals": ("normals/mean",)}
    chosen = plan_of(tmp_path, {**SEVERAL, "metric": ["normals/median", "depth/absRel", "total_loss"]})
    assert chosen.measured["depth"] == ("depth/absRel", "total_loss")


@pytest.mark.parametrize(
    ("singles", "message"),
    [
        (["depth"], "holds a variant with a list of others"),
        ({"both": ["depth"]}, "single_tasks names 'both', which is no variant; choose among joint, depth, normals"),
        ({"joint": ["depth", "edges"]}, "names 'edges', which is no variant"),
        ({"joint": "depth"}, "give one variant for each of depth, normals"),
        (
            {"joint": ["depth"]},
            r"single_tasks of joint are \{'depth': \['depth'\]\}; give one variant for each of depth",
        ),
        ({"joint": ["depth", "joint"]}, "with that task alone"),
    ],
)
def test_single_tasks_that_cannot_be_meant(tmp_path, singles, message):
    with pytest.raises(ValueError, match=message):
        plan_of(tmp_path, {**SEVERAL, "single_tasks": singles})


@pytest.mark.parametrize(
    ("name", "unit", "higher"),
    [
        ("depth/rmse", "m", False),
        ("toy3d_val/normals/mean", "degrees", False),
        ("sem_seg/mIoU", "%", True),
        ("sem_seg/IoU-card", "%", True),
        ("validation/loss", "", False),
        ("total_loss", "", False),
        ("multi_task/delta_m", "", True),
        ("bbox/AP", "", True),
    ],
)
def test_a_metric_knows_which_way_is_better(name, unit, higher):
    metric = find_metric(name)
    assert (metric.unit, metric.higher_is_better) == (unit, higher)
