"""The tasks by name, for MODEL.TASKS.NAMES."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from scaleeq.choices import one_of
from scaleeq.task_names import know_task

from .base import Task

if TYPE_CHECKING:
    from yacs.config import CfgNode

TASKS: dict[str, type[Task]] = {}
TaskClass = TypeVar("TaskClass", bound=type[Task])


def register(task: TaskClass) -> TaskClass:
    """Make a task known under its name; a class decorator. ValueError: the name is another's, or means something."""
    know_task(task.name)
    known = TASKS.setdefault(task.name, task)
    if (known.__module__, known.__qualname__) != (task.__module__, task.__qualname__):
        raise ValueError(
            f"there is a task {task.name!r} already, {known.__module__}.{known.__qualname__}; take another name"
        )
    TASKS[task.name] = task  # its file may have been imported again
    return task


def task_names(cfg: CfgNode) -> list[str]:
    """MODEL.TASKS.NAMES; ValueError for a name that no task has, with the choices, and for no name or one twice."""
    names = list(cfg.MODEL.TASKS.NAMES)
    for name in names:
        one_of(name, TASKS, key="MODEL.TASKS.NAMES")
    if not names or len(set(names)) < len(names):
        raise ValueError(f"MODEL.TASKS.NAMES is {names}; name each task once, and one at least")
    return names


def the_task(cfg: CfgNode) -> Task:
    """That of a model that has one. ValueError: MODEL.TASKS.NAMES has several."""
    names = task_names(cfg)
    if len(names) > 1:
        raise ValueError(
            f"MODEL.TASKS.NAMES is {names}, but a head has one task; MODEL.META_ARCHITECTURE ScaleEqSegmentor takes "
            "several"
        )
    return TASKS[names[0]].from_config(cfg)


def build_tasks(cfg: CfgNode) -> dict[str, Task]:
    """Name -> task, in the order of MODEL.TASKS.NAMES; without predictors, which come with a decoder."""
    return {name: TASKS[name].from_config(cfg) for name in task_names(cfg)}
