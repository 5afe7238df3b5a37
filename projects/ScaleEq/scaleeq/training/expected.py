"""TEST.EXPECTED_RESULTS: refused before training where no run can meet them, compared after the last evaluation.

Which metrics there are is asked of the evaluators themselves, with no image counted.
"""

from __future__ import annotations

import math
import numbers

from scaleeq.choices import did_you_mean, one_of
from scaleeq.console import quiet
from scaleeq.data import find_dataset
from scaleeq.engine import CfgNode, verify_results
from scaleeq.records import JsonView
from scaleeq.task_names import MULTI_TASK
from scaleeq.tasks import build_tasks

KEY = "TEST.EXPECTED_RESULTS"


def check_rows(cfg: CfgNode) -> None:
    """ValueError: a row is no [task, metric, value, tolerance], or there is no one data set to compare with."""
    tests, expected = cfg.DATASETS.TEST, cfg.TEST.EXPECTED_RESULTS
    if expected and len(tests) != 1:
        raise ValueError(f"{KEY} is compared with one data set's results, but DATASETS.TEST is {tuple(tests)}")
    for row in expected:
        kinds = (str, str, numbers.Real, numbers.Real)
        if not isinstance(row, (list, tuple)) or len(row) != 4 or not all(map(isinstance, row, kinds)):
            raise ValueError(
                f"{KEY} has the row {row!r}; expected [task, metric, value, tolerance], for example "
                "['sem_seg', 'mIoU', 40.0, 0.5]"
            )
        value, tolerance = float(row[2]), float(row[3])
        if not (math.isfinite(value) and math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"{KEY} has the row {row!r}, which nothing can meet: the tolerance is 0 or more")


def check_expected_results(cfg: CfgNode) -> None:
    """check_rows; and that our evaluators have each metric, and that it can have the value.

    ValueError: no run can meet a row.
    """
    check_rows(cfg)
    if not cfg.TEST.EXPECTED_RESULTS:
        return
    # What there is.
    (dataset_name,) = cfg.DATASETS.TEST
    metrics = metric_names(cfg, dataset_name)
    if not metrics:
        raise ValueError(f"{KEY} cannot be met: {dataset_name} has no labels to score with")
    scored = {name: metric for task in build_tasks(cfg).values() for name, metric in task.scored.items()}
    for task, metric, value, tolerance in cfg.TEST.EXPECTED_RESULTS:
        # Each row: task, metric, value.
        row = [task, metric, value, tolerance]
        one_of(task, metrics, key=f"the task of {row} in {KEY}")
        if metric not in metrics[task]:
            off, names = "", list(metrics[task])
            if task == "sem_seg":
                off = "" if cfg.TEST.BOUNDARY else "; TEST.BOUNDARY is False, so there are none near boundaries"
                names = [name for name in names if not name.startswith(("IoU-", "ACC-"))]
                names += ["IoU-<class>", "ACC-<class>"]
            raise ValueError(
                f"{KEY} names the metric {metric!r}; choose one of {', '.join(names)}"
                f"{did_you_mean(metric, metrics[task])}{off}"
            )
        if task == MULTI_TASK:  # a gain or a loss, in percent
            continue
        of_group = [each.highest for name, each in scored.items() if name.startswith(f"{task}/")]
        highest = max(of_group, default=math.inf)
        if not 0 <= value <= highest:
            raise ValueError(f"{KEY} has the row {row!r}, which nothing can meet: {metric} is in [0, {highest:g}]")


def metric_names(cfg: CfgNode, dataset_name: str) -> dict[str, list[str]]:
    """Task -> the metrics that an evaluation on a data set has, as TEST asks for them; {} without labels."""
    find_dataset(dataset_name)
    tasks = build_tasks(cfg).values()
    with quiet():
        results = [
            evaluator.evaluate() for task in tasks for evaluator in task.evaluators(dataset_name, distributed=False)
        ]
    found = {group: list(metrics) for result in results for group, metrics in result.items()}
    return found | ({MULTI_TASK: ["delta_m"]} if cfg.TEST.SINGLE_TASK_RESULTS else {})


def require_expected(cfg: CfgNode, results: JsonView) -> None:
    """SystemExit, in one line: results differ from TEST.EXPECTED_RESULTS."""
    try:
        verify_results(cfg, results)
    except SystemExit:
        differing = [
            f"{task}/{metric} is {found:.4g}, expected {value} +- {tolerance}"
            for task, metric, value, tolerance in cfg.TEST.EXPECTED_RESULTS
            if not abs((found := results.get(task, {}).get(metric, math.nan)) - value) <= tolerance
        ]
        raise SystemExit(f"error: {KEY} are not met: {'; '.join(differing)}") from None
