"""Delta_m. Oracle: the table of auto-lambda's README (NYUv2: mIoU, absolute error, mean angle), to two digits."""

from __future__ import annotations

import json
import math

import pytest

from scaleeq.evaluation.multi_task import delta_m, read_single_task_results

SINGLE = {"sem_seg": 43.37, "depth": 52.24, "normals": 22.40}
LOWER = ("depth", "normals")
HEADLINES = {"sem_seg": "mIoU", "depth": "rmse"}
SOUND = {"sem_seg": {"mIoU": 43.4, "pACC": 70.0}, "depth": {"rmse": 0.58}, "num_images": 654}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((44.64, 43.32, 24.48), 3.57),  # equal weights
        ((45.14, 43.06, 24.17), 4.58),  # DWA
        ((45.15, 42.38, 24.13), 5.09),  # PCGrad
        ((45.98, 41.26, 24.09), 6.50),  # uncertainty
        ((46.14, 41.91, 23.52), 7.05),  # CAGrad
        ((47.17, 40.97, 23.68), 8.21),  # auto-lambda
        ((48.26, 39.82, 22.81), 11.07),  # auto-lambda with CAGrad
    ],
)
def test_published_values(values, expected):
    found = delta_m(dict(zip(SINGLE, values, strict=True)), SINGLE, lower_is_better=LOWER)
    assert round(found, 2) == expected


def test_signs_and_order():
    assert delta_m({"a": 2.0}, {"a": 1.0}) == 100 == -delta_m({"a": 2.0}, {"a": 1.0}, lower_is_better=["a"])
    several = {"normals": 24.48, "sem_seg": 44.64, "depth": 43.32}
    assert delta_m(several, SINGLE, lower_is_better=LOWER) == pytest.approx(3.57, abs=5e-3)
    assert math.isnan(delta_m({"sem_seg": math.nan}, SINGLE))


@pytest.mark.parametrize("reference", [0.0, math.nan, math.inf])
def test_what_nothing_is_in_proportion_to(reference):
    with pytest.raises(ValueError, match="the single-task result of a is"):
        delta_m({"a": 1.0}, {"a": reference})


def test_a_missing_task():
    with pytest.raises(ValueError, match="edges has no single-task result; there are sem_seg, depth, normals"):
        delta_m({"edges": 70.0}, SINGLE)
    with pytest.raises(ValueError, match="no task to compare"):
        delta_m({}, SINGLE)


def test_the_file(tmp_path):
    path = tmp_path / "single.json"
    path.write_text(json.dumps(SOUND))
    assert read_single_task_results(str(path), HEADLINES) == {"sem_seg": 43.4, "depth": 0.58}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"sem_seg": SOUND["sem_seg"]}, "has no results of depth; it has sem_seg"),
        (SOUND | {"depth": {"rms": 0.5}}, r"depth/rmse is missing \(did you mean rms\?\)"),
        (SOUND | {"depth": {"rmse": 0}}, "depth/rmse is 0 in"),
        (SOUND | {"depth": {"rmse": None}}, "depth/rmse is None in"),
        (SOUND | {"depth": {"rmse": math.nan}}, "depth/rmse is nan in"),
        (SOUND | {"depth": {"rmse": "0.5"}}, "depth/rmse is '0.5' in"),
        (SOUND | {"depth": {"rmse": True}}, "depth/rmse is True in"),
        ([1], "is no object"),
    ],
)
def test_a_file_that_cannot_be_meant(tmp_path, content, message):
    path = tmp_path / "single.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"TEST\.SINGLE_TASK_RESULTS: .*{message}"):
        read_single_task_results(str(path), HEADLINES)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"TEST\.SINGLE_TASK_RESULTS: there is no file"):
        read_single_task_results(str(tmp_path / "none.json"), HEADLINES)
    (tmp_path / "cut.json").write_text('{"sem_seg": {')
    with pytest.raises(ValueError, match=r"cut\.json is no JSON file that can be read"):
        read_single_task_results(str(tmp_path / "cut.json"), HEADLINES)
