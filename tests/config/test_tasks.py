"""Wrong values of MODEL.TASKS, and of what goes with several tasks, are refused before torch is loaded."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tests.tasks.mean_colour  # noqa: F401  (registers a second task)
from scaleeq.task_names import KNOWN_TASKS, know_task
from scaleeq.tasks import TASKS
from scaleeq.training.multi_task import best_metric, check_multi_task
from tests.training.tiny import tiny_config

TWO = {"MODEL__TASKS__NAMES": ["sem_seg", "mean_colour"]}


def test_the_known_tasks_are_those_that_are_registered():
    assert sorted(KNOWN_TASKS) == sorted(TASKS)


@pytest.mark.parametrize("name", ["shared", "multi_task"])
def test_names_that_mean_something_else(name):
    with pytest.raises(ValueError, match=f"a task cannot be named '{name}'"):
        know_task(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"NAMES": ["sem_seg", "dept"]}, "MODEL.TASKS.NAMES is 'dept'; choose one of sem_seg"),
        ({"NAMES": ["sem_seg", "sem_seg"]}, "name sem_seg once"),
        ({"NAMES": []}, "MODEL.TASKS.NAMES is .*at least one"),
        ({"HEADS": ["UPerHead"]}, r"MODEL.TASKS.HEADS is \['UPerHead'\], 1 for the 2 tasks"),
        ({"HEADS": ["UPerHead", "FCNHead"], "SHARE": "decoder"}, "all tasks have one decoder"),
        ({"SHARE": "neck"}, "MODEL.TASKS.SHARE is 'neck'; choose one of backbone, pyramid, decoder"),
        ({"WEIGHTS": [1.0, 1.0, 10.0]}, "MODEL.TASKS.WEIGHTS is .*, 3 for the 2 tasks"),
        ({"WEIGHTS": [1.0, 0.0]}, r"MODEL.TASKS.WEIGHTS is .*in \(0, 1e6\]"),
        ({"WEIGHTS": [1.0, -1.0]}, r"MODEL.TASKS.WEIGHTS is .*in \(0, 1e6\]"),
        ({"WEIGHTS": [1.0, float("nan")]}, r"MODEL.TASKS.WEIGHTS is .*in \(0, 1e6\]"),
        ({"WEIGHTING": "gradnorm"}, "MODEL.TASKS.WEIGHTING is 'gradnorm'; choose one of fixed, uncertainty, pcgrad"),
        ({"WEIGHTING": "uncertainty", "WEIGHTS": [1.0, 2.0]}, "learns the weights"),
    ],
)
def test_wrong_values(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(tmp_path, **TWO | {f"MODEL__TASKS__{key}": value for key, value in changes.items()})


def test_pcgrad_has_no_loss_scaler(tmp_path):
    keys = TWO | {"MODEL__TASKS__WEIGHTING": "pcgrad", "SOLVER__AMP__ENABLED": True}
    tiny_config(tmp_path, **keys)
    with pytest.raises(ValueError, match=r"'pcgrad' does not scale losses.*set 'bfloat16'"):
        tiny_config(tmp_path, **keys, SOLVER__AMP__DTYPE="float16")


@pytest.mark.parametrize(
    ("key", "value"),
    [("HEADS", ["FCNHead"]), ("SHARE", "backbone"), ("WEIGHTS", [2.0]), ("WEIGHTING", "pcgrad")],
)
def test_what_is_for_several_tasks_is_refused_for_one(tmp_path, key, value):
    with pytest.raises(ValueError, match=rf"MODEL.TASKS.{key} is .*for several tasks, but MODEL.TASKS.NAMES is \['sem"):
        tiny_config(tmp_path, **{f"MODEL__TASKS__{key}": value})
    with pytest.raises(ValueError, match=r"TEST.SINGLE_TASK_RESULTS is 'x.json'.*leave it empty"):
        tiny_config(tmp_path, TEST__SINGLE_TASK_RESULTS="x.json")


def test_the_best_metric(tmp_path):
    assert best_metric(tiny_config(tmp_path, **TWO)).name == "sem_seg/mIoU"
    errors = best_metric(tiny_config(tmp_path, **TWO, TEST__BEST_METRIC="mean_colour/mae"))
    assert errors.name == "mean_colour/mae" and errors.is_better(0.1, 0.2)
    with pytest.raises(ValueError, match=r"TEST.BEST_METRIC is 'mean_colour/mea'; .*did you mean mean_colour/mae"):
        check_multi_task(tiny_config(tmp_path, **TWO, TEST__BEST_METRIC="mean_colour/mea"))
    with pytest.raises(ValueError, match=r"for which TEST.SINGLE_TASK_RESULTS has to name a file"):
        check_multi_task(tiny_config(tmp_path, **TWO, TEST__BEST_METRIC="multi_task/delta_m"))


def test_torch_is_not_loaded_for_it():
    """The command's own check, of an unknown task."""
    code = (
        "import sys; from scaleeq.commands.words import refuse_early\n"
        "try:\n    refuse_early('quickstart', ['MODEL.TASKS.NAMES', ['dept']])\n"
        "except ValueError as error:\n    print(error, 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.startswith("MODEL.TASKS.NAMES is 'dept'") and found.endswith("False\n"), found
