"""The names of tasks, which a config's check knows before torch is loaded. Needs the standard library alone."""

from __future__ import annotations

# A name is here with its registration; those that come with ScaleEq, from the beginning.
KNOWN_TASKS = ["sem_seg", "depth", "normals", "edges", "saliency", "human_parts", "instances"]
KNOWN_INTERACTIONS = ["", "pad_net"]  # of MODEL.TASKS.INTERACTION; "": tasks do not look at each other
MULTI_TASK = "multi_task"  # the group of results that compares several tasks with single ones
SHARED = "shared"  # the part of a model's decoders that all tasks have
RESERVED = {MULTI_TASK: "a group of results", SHARED: "a part of a model"}


def know_task(name: str) -> None:
    """A task of that name may be in MODEL.TASKS.NAMES. ValueError: the name means something else."""
    if name in RESERVED:
        raise ValueError(f"a task cannot be named {name!r}, which is {RESERVED[name]}; take another name")
    if name not in KNOWN_TASKS:
        KNOWN_TASKS.append(name)


def know_interaction(name: str) -> None:
    """An interaction of that name may be MODEL.TASKS.INTERACTION."""
    if name not in KNOWN_INTERACTIONS:
        KNOWN_INTERACTIONS.append(name)
