"""What an evaluation of several tasks has beside each one's metrics: their comparison with single ones, and the metric
that stands for all."""

from __future__ import annotations

import dataclasses
import logging

from scaleeq.choices import one_of
from scaleeq.engine import CfgNode
from scaleeq.evaluation.multi_task import KEY, delta_m, read_single_task_results, sha256_of
from scaleeq.records import Json, JsonView
from scaleeq.task_names import MULTI_TASK
from scaleeq.tasks import Metric, Task, build_tasks

logger = logging.getLogger(__name__)

DELTA_M = Metric(name=f"{MULTI_TASK}/delta_m", unit="%")


def headline_of(task: Task) -> Metric:
    """The metric that stands for a task, with the task's name before its own."""
    return dataclasses.replace(task.scored[task.headline_name], name=task.headline_name)


def best_metric(cfg: CfgNode) -> Metric:
    """That of TEST.BEST_METRIC, by which the best weights are kept; where it is empty, the first task's headline.

    ValueError: no task of the model has it.
    """
    tasks = build_tasks(cfg)
    wanted = cfg.TEST.BEST_METRIC
    if not wanted:
        return headline_of(next(iter(tasks.values())))
    known = {
        name: dataclasses.replace(metric, name=name) for task in tasks.values() for name, metric in task.scored.items()
    }
    if cfg.TEST.SINGLE_TASK_RESULTS:
        known[DELTA_M.name] = DELTA_M
    elif wanted == DELTA_M.name:
        raise ValueError(f"TEST.BEST_METRIC is {wanted!r}, for which {KEY} has to name a file")
    return known[one_of(wanted, known, key="TEST.BEST_METRIC")]


def check_multi_task(cfg: CfgNode) -> None:
    """ValueError, FileNotFoundError: TEST.BEST_METRIC or TEST.SINGLE_TASK_RESULTS cannot be meant."""
    best_metric(cfg)
    if cfg.TEST.SINGLE_TASK_RESULTS:
        if len(cfg.DATASETS.TEST) > 1:
            raise ValueError(
                f"{KEY} is compared with one data set's results, but DATASETS.TEST is {tuple(cfg.DATASETS.TEST)}"
            )
        _single_results(cfg)


def compared(cfg: CfgNode, results: JsonView) -> Json:
    """{"multi_task": {"delta_m": percent}} of a data set's results, where KEY names a file; else {}.

    results: of all tasks; empty off the main process, which has {} too.
    """
    if not cfg.TEST.SINGLE_TASK_RESULTS or not results:
        return {}
    tasks = build_tasks(cfg)
    nan = float("nan")
    headlines = [headline_of(task) for task in tasks.values()]
    names = {metric: metric.name.split("/") for metric in headlines}
    several = {group: results.get(group, {}).get(name, nan) for group, name in names.values()}
    lower = [names[metric][0] for metric in headlines if not metric.higher_is_better]
    value = delta_m(several, _single_results(cfg), lower_is_better=lower)
    logger.info("%s %.4f %% against %s", DELTA_M.name, value, describe(cfg)["single_task_results"])
    return {MULTI_TASK: {"delta_m": value}}


def describe(cfg: CfgNode) -> Json:
    """For results.json: with which file tasks were compared, and its hash; {} where there is none."""
    path = cfg.TEST.SINGLE_TASK_RESULTS
    return {"single_task_results": {"file": path, "sha256": sha256_of(path)}} if path else {}


def _single_results(cfg: CfgNode) -> dict[str, float]:
    headlines = dict(task.headline_name.split("/") for task in build_tasks(cfg).values())
    return read_single_task_results(cfg.TEST.SINGLE_TASK_RESULTS, headlines)
