"""A comparison of models with several tasks and with one: directions, Delta_m by seed. Oracles: by hand, scipy."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from scaleeq.evaluation.multi_task import delta_m
from scaleeq.experiments.execute import run_folder
from scaleeq.experiments.summary import summarize_comparison
from scaleeq.reports.comparison_page import page, write_report
from scaleeq.reports.comparison_tables import all_tables, all_verdicts, markdown, verdicts
from tests.experiments.folders import write_plan, write_values
from tests.experiments.test_plan import SEVERAL

EQUALIZED = {"MODEL.SCALE_EQUALIZER.ENABLED": True}
VARIANTS = {
    **SEVERAL["variants"],
    **{f"{name}_equalized": {**keys, **EQUALIZED} for name, keys in SEVERAL["variants"].items()},
}
CHANGES = {
    **SEVERAL,
    "variants": VARIANTS,
    "seeds": [0, 1, 2],
    "baseline": {f"{name}_equalized": name for name in SEVERAL["variants"]},
    "single_tasks": {"joint": ["depth", "normals"], "joint_equalized": ["depth_equalized", "normals_equalized"]},
}
# Variant -> metric -> value of each seed.
VALUES = {
    "joint": {"depth/rmse": [1.10, 1.20, 1.15], "normals/mean": [20.0, 21.0, 22.0]},
    "depth": {"depth/rmse": [1.00, 1.10, 1.05]},
    "normals": {"normals/mean": [22.0, 24.0, 23.0]},
    "joint_equalized": {"depth/rmse": [0.90, 1.01, 0.94], "normals/mean": [19.0, 23.0, 21.0]},
    "depth_equalized": {"depth/rmse": [1.00, 1.08, 1.01]},
    "normals_equalized": {"normals/mean": [21.0, 22.0, 24.0]},
}


def written(folder, values):
    plan = write_plan(folder, **CHANGES)
    for variant in plan.variants:
        for seed in plan.seeds:
            own = {metric: of[seed] for metric, of in values[variant.name].items() if of[seed] is not None}
            if own:
                write_values(run_folder(folder / "output", variant, seed), own)
    return plan, folder / "output"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return summarize_comparison(*written(tmp_path_factory.mktemp("several"), VALUES))


def expected_delta_m(joint, of_depth, of_normals):
    """Percent, by seed, by hand."""
    both, alone = VALUES[joint], (VALUES[of_depth]["depth/rmse"], VALUES[of_normals]["normals/mean"])
    gains = [[-(m - s) / s for m, s in zip(both[name], of, strict=True)] for name, of in zip(both, alone, strict=True)]
    return [50 * (a + b) for a, b in zip(*gains, strict=True)]


def test_each_metric_has_its_section_and_direction(content):
    second, *delta = content["more"]
    assert [(part["metric"], part["unit"]) for part in (content, second)] == [
        ("depth/rmse", "m"),
        ("normals/mean", "degrees"),
    ]
    assert not content["higher_is_better"] and not second["higher_is_better"]
    assert all(part["higher_is_better"] and part["unit"] == "%" for part in delta)
    assert set(second["variants"]) == {name for name in VALUES if "depth" not in name}
    assert content["variants"]["normals"]["n"] == 0 and not content["variants"]["normals"]["has_metric"]
    compared = content["comparisons"]["joint_equalized"]
    assert compared["mean"] == pytest.approx(-0.2) and compared["called"] and compared["better"] is True
    words = verdicts(content)["joint_equalized"]
    assert "depth/rmse is lower, which is better (-0.200, 95 % interval" in words and "Seeds to detect" not in words
    assert content["comparisons"]["depth_equalized"]["better"] is None, "not called"


def test_delta_m_of_each_seed(content):
    own, between, same = content["more"][1:]
    joint = expected_delta_m("joint", "depth", "normals")
    equalized = expected_delta_m("joint_equalized", "depth_equalized", "normals_equalized")
    assert joint[0] == pytest.approx(delta_m({"d": 1.10, "n": 20.0}, {"d": 1.0, "n": 22.0}, lower_is_better=["d", "n"]))
    for name, values in (("joint", joint), ("joint_equalized", equalized)):
        assert list(own["comparisons"][name]["by_seed"].values()) == pytest.approx(values)
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (own["comparisons"][name]["low"], own["comparisons"][name]["high"]) == pytest.approx(tuple(interval))
    difference = np.subtract(equalized, joint)
    assert list(between["comparisons"]["joint_equalized"]["by_seed"].values()) == pytest.approx(difference)
    against_plain = expected_delta_m("joint_equalized", "depth", "normals")
    assert same["variants"]["joint_equalized"]["mean"] == pytest.approx(np.mean(against_plain))
    found = same["comparisons"]["joint_equalized"]
    assert found["mean"] == pytest.approx(np.mean(np.subtract(against_plain, joint)))
    assert found["p_t"] == pytest.approx(stats.ttest_rel(against_plain, joint).pvalue)


def test_tables_words_and_page(tmp_path, content):
    tables = all_tables(content)
    assert tables.count("**depth/rmse, m, lower is better**") == 1
    row = next(line for line in tables.splitlines() if line.startswith("| joint_equalized"))
    assert [cell.strip() for cell in row.split("|")[2:7]] == ["3", "0.950", "0.056", "joint", "-0.200"]
    assert all(f"**Delta_m{end}" in tables for end in (", each against its own", " between variants, both against"))
    assert any(
        words.startswith("normals/mean: normals_equalized against normals") for words, _ in all_verdicts(content)
    )
    paths = write_report(content, tmp_path)
    saved = json.loads(paths[0].read_text())
    assert len(saved["more"]) == 4 and tables in markdown(content)
    text = page(content)
    assert text.count("<h3>") == 5 and "lower is better" in text and "joint against its single tasks" in text
    assert text.count("data:image/svg+xml") == 2 * 2 + 3 + 1


def test_seeds_of_which_a_run_is_missing_have_no_delta_m(tmp_path):
    values = {**VALUES, "normals": {"normals/mean": [22.0, None, 23.0]}, "depth": {"depth/rmse": [1.0, 1.1, 0.0]}}
    content = summarize_comparison(*written(tmp_path, values))
    own = content["more"][1]
    assert list(own["comparisons"]["joint"]["by_seed"]) == ["0"]
    assert content["missing"][0] == "normals, seed 1"
    assert "Delta_m of joint, seed 2: the single-task result of depth is 0.0, to which nothing" in content["missing"][1]
