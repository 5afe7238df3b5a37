"""Which metrics a comparison is of, which of its variants have them, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaleeq.engine import CfgNode
from scaleeq.task_names import KNOWN_TASKS
from scaleeq.tasks import TASKS, Metric


def find_metric(name: str) -> Metric:
    """The unit and direction of a scalar of metrics.json; one that no task knows is better where it is higher.

    name: such as "depth/rmse", before it the data set where there are several.
    """
    *_, group, key = ("", *name.split("/"))
    if group in TASKS and key in TASKS[group].metrics:
        return TASKS[group].metrics[key]
    is_loss = key in ("loss", "total_loss") or key.startswith("loss_")
    return Metric(unit="%" if group in TASKS else "", higher_is_better=not is_loss)


def headlines_of(cfg: CfgNode) -> dict[str, str]:
    """Task -> its headline, as in metrics.json."""
    names = {task: Metric(name=f"{task}/{TASKS[task].headline}") for task in cfg.MODEL.TASKS.NAMES}
    return {task: metric.of_first(cfg.DATASETS.TEST).name for task, metric in names.items()}


def read_metrics_key(path: Path, value: Any, configs: Mapping[str, CfgNode]) -> dict[str, tuple[str, ...]]:
    """Variant -> its metrics, of those that `metric` names: by default, the headlines of all tasks.

    value: a name, a list of names, or None. configs: of each variant. ValueError: no such value; a variant has none.
    """
    if value is None:
        wanted = list(dict.fromkeys(name for cfg in configs.values() for name in headlines_of(cfg).values()))
    else:
        wanted = [value] if isinstance(value, str) else value
    valid = isinstance(wanted, list) and all(isinstance(name, str) and name for name in wanted)
    if not valid or not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"{path}: metric is {value!r}; give one name, such as depth/rmse, or a list of different ones")
    # A task's metric is that of the variants with the task.
    found = {}
    for variant, cfg in configs.items():
        others = set(KNOWN_TASKS) - set(cfg.MODEL.TASKS.NAMES)
        found[variant] = tuple(name for name in wanted if others.isdisjoint(name.split("/")[-2:-1]))
        if not found[variant]:
            headlines = ", ".join(headlines_of(cfg).values())
            raise ValueError(
                f"{path}: variant {variant} has the tasks {list(cfg.MODEL.TASKS.NAMES)}, and no {', '.join(wanted)}; "
                f"add {headlines} to metric"
            )
    return found


def read_single_tasks(path: Path, value: object, configs: Mapping[str, CfgNode]) -> dict[str, dict[str, str]]:
    """Variant -> task -> the variant that has this task alone.

    value: variant -> names of variants. ValueError: their tasks are not those of the variant, one each.
    """
    found: dict[str, dict[str, str]] = {}
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{path}: single_tasks is {value!r}; it holds a variant with a list of others, one a task")
    for variant, singles in (value or {}).items():
        for name in [variant, *singles] if isinstance(singles, list) else [variant]:
            if name not in configs:
                known = ", ".join(configs)
                raise ValueError(f"{path}: single_tasks names {name!r}, which is no variant; choose among {known}")
        tasks = {name: list(configs[name].MODEL.TASKS.NAMES) for name in (singles if isinstance(singles, list) else [])}
        wanted = list(configs[variant].MODEL.TASKS.NAMES)
        if any(len(own) != 1 for own in tasks.values()) or sorted(own[0] for own in tasks.values()) != sorted(wanted):
            raise ValueError(
                f"{path}: single_tasks of {variant} are {tasks}; give one variant for each of {', '.join(wanted)}, "
                "with that task alone"
            )
        found[variant] = {own[0]: name for name, own in tasks.items()}
    return found
