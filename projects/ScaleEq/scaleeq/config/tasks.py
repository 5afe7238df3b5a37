"""MODEL.TASKS: which tasks there are, and what its keys must agree on; known before torch is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from scaleeq.choices import one_of
from scaleeq.task_names import KNOWN_INTERACTIONS, KNOWN_TASKS

Values = Mapping[str, Any]  # of a config's keys: full key -> value, or a tree
DEFAULTS = {"HEADS": [], "SHARE": "pyramid", "WEIGHTS": [], "WEIGHTING": "fixed", "INTERACTION": ""}


def check_tasks(values: Values) -> None:
    """values: full key -> value of a config. ValueError: keys of MODEL.TASKS that cannot be meant together."""
    names = list(values["MODEL.TASKS.NAMES"])
    for name in names:
        one_of(name, KNOWN_TASKS, key="MODEL.TASKS.NAMES")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"MODEL.TASKS.NAMES is {names}; name {', '.join(twice)} once")
    one_of(values["MODEL.TASKS.INTERACTION"], KNOWN_INTERACTIONS, key="MODEL.TASKS.INTERACTION")
    _check_instances(values, names)
    # What is for several tasks alone.
    if len(names) == 1:
        _refuse_of_several(values, names)
        return
    for key in ("HEADS", "WEIGHTS"):
        given = list(values[f"MODEL.TASKS.{key}"])
        if given and len(given) != len(names):
            raise ValueError(
                f"MODEL.TASKS.{key} is {given}, {len(given)} for the {len(names)} tasks {', '.join(names)} of "
                f"MODEL.TASKS.NAMES; give one a task, or []"
            )
    heads = list(values["MODEL.TASKS.HEADS"])
    if values["MODEL.TASKS.SHARE"] == "decoder" and len(set(heads)) > 1:
        raise ValueError(
            f"MODEL.TASKS.HEADS is {heads}, but with MODEL.TASKS.SHARE 'decoder' all tasks have one decoder: give one "
            "name for all, or SHARE 'backbone'"
        )
    if values["MODEL.TASKS.WEIGHTING"] == "uncertainty" and values["MODEL.TASKS.WEIGHTS"]:
        raise ValueError(
            f"MODEL.TASKS.WEIGHTS is {list(values['MODEL.TASKS.WEIGHTS'])}, but MODEL.TASKS.WEIGHTING 'uncertainty' "
            "learns the weights; leave WEIGHTS []"
        )
    if values["MODEL.TASKS.WEIGHTING"] == "pcgrad" and _scales_losses(values):
        raise ValueError(
            "MODEL.TASKS.WEIGHTING 'pcgrad' does not scale losses, which SOLVER.AMP.DTYPE 'float16' needs; set "
            "'bfloat16', or another WEIGHTING"
        )


def _check_instances(values: Values, names: list[str]) -> None:
    """Objects are predicted by a detector, by itself or with maps beside it."""
    architecture = values["MODEL.META_ARCHITECTURE"]
    detects = architecture == "TorchvisionDetector"
    if ("instances" in names) != detects:
        raise ValueError(
            f"MODEL.TASKS.NAMES is {names}, and MODEL.META_ARCHITECTURE {architecture}: 'instances' and "
            "TorchvisionDetector belong together; set both, or neither"
        )
    if not detects:
        return
    if values["MODEL.TASKS.HEADS"] or values["MODEL.TASKS.SHARE"] != "pyramid":
        raise ValueError(
            "MODEL.TASKS.HEADS and SHARE are not for a TorchvisionDetector, whose tasks share its pyramid and have a "
            "decoder each, MODEL.SEM_SEG_HEAD.NAME; leave HEADS [] and SHARE 'pyramid'"
        )
    if values["TEST.AUG.ENABLED"] or values["TEST.SLIDE.WINDOW"]:
        raise ValueError(
            "TEST.SLIDE.WINDOW and TEST.AUG.ENABLED are for maps, and MODEL.TASKS.NAMES has 'instances'; leave them [] "
            "and False"
        )


def _refuse_of_several(values: Values, names: list[str]) -> None:
    for key, default in DEFAULTS.items():
        value = values[f"MODEL.TASKS.{key}"]
        if (list(value) if isinstance(value, tuple) else value) != default:
            way = "MODEL.SEM_SEG_HEAD.NAME names its head" if key == "HEADS" else f"leave it {default!r}"
            raise ValueError(
                f"MODEL.TASKS.{key} is {value!r}, which is for several tasks, but MODEL.TASKS.NAMES is {names}; {way}"
            )
    if values["TEST.SINGLE_TASK_RESULTS"]:
        raise ValueError(
            f"TEST.SINGLE_TASK_RESULTS is {values['TEST.SINGLE_TASK_RESULTS']!r}, with which several tasks are "
            f"compared, but MODEL.TASKS.NAMES is {names}; leave it empty"
        )


def _scales_losses(values: Values) -> bool:
    return bool(values["SOLVER.AMP.ENABLED"]) and values["SOLVER.AMP.DTYPE"] == "float16"
