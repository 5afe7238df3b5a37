"""Delta_m: by how many percent a model of several tasks is better than models of one task each, on average.

Source: Vandenhende et al. (arXiv 2004.13379), with one metric a task:

    Delta_m = 100 / T * sum over tasks of  sign_t (M_t - S_t) / S_t,   sign_t = -1 where lower is better

S should come from runs of one's own, with the same backbone, schedule and evaluation.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from numbers import Real
from pathlib import Path

from scaleeq.choices import did_you_mean

KEY = "TEST.SINGLE_TASK_RESULTS"


def delta_m(
    several: Mapping[str, float], single: Mapping[str, float], *, lower_is_better: Collection[str] = ()
) -> float:
    """Percent: the mean over tasks of the relative gains; NaN where a task of the model has no value.

    Args:
        several: task -> the metric of the model with several tasks.
        single: task -> the same metric of a model with that task alone.
        lower_is_better: the tasks whose metric is an error.

    ValueError: no task; a task that `single` has not, or whose metric there is 0 or not finite.
    """
    if not several:
        raise ValueError("there is no task to compare")
    gains = []
    for task, value in several.items():
        if task not in single:
            raise ValueError(f"{task} has no single-task result; there are {', '.join(single) or 'none'}")
        reference = single[task]
        if not math.isfinite(reference) or reference == 0:
            raise ValueError(f"the single-task result of {task} is {reference}, to which nothing is in proportion")
        gain = (value - reference) / reference
        gains.append(-gain if task in lower_is_better else gain)
    return 100 * sum(gains) / len(gains)


def read_single_task_results(path: str, headlines: Mapping[str, str]) -> dict[str, float]:
    """Task -> its headline's value, from a JSON file {task: {metric: value}}, such as several results.json in one.

    headlines: task -> metric. FileNotFoundError: no such file. ValueError: a task or its metric is missing, 0 or no
    finite number; or the file is no such JSON.
    """
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{KEY}: there is no file {path!r}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{KEY}: {path} is no JSON file that can be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{KEY}: {path} is no object {{task: {{metric: value}}}}")
    found: dict[str, float] = {}
    for task, metric in headlines.items():
        group = content.get(task)
        if not isinstance(group, dict):
            groups = [name for name, value in content.items() if isinstance(value, dict)]
            raise ValueError(f"{KEY}: {path} has no results of {task}; it has {', '.join(groups) or 'none'}")
        value = group.get(metric)
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or not value:
            has = f"is {value!r}" if metric in group else f"is missing{did_you_mean(metric, group)}"
            raise ValueError(f"{KEY}: {task}/{metric} {has} in {path}; a number is needed that is not 0")
        found[task] = float(value)
    return found


def sha256_of(path: str) -> str:
    """Of the bytes of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
