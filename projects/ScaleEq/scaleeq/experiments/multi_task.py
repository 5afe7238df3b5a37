"""Delta_m of a comparison: variants with several tasks, each against those with one of them, seed by seed.

A run with several tasks and the runs with one each, of the same seed, are a pair: Delta_m is its mean relative gain in
the headlines (evaluation/multi_task.py). Its interval over seeds is that of any other paired difference, and so is that
of the difference between two variants' values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scaleeq.evaluation.multi_task import delta_m
from scaleeq.task_names import MULTI_TASK

from .execute import run_folder
from .metrics import find_metric, headlines_of
from .plan import Plan, Variant
from .runs import read_run
from .sections import Content, about_metric, compare_pairs, compared, summary_of

DELTA_M = f"{MULTI_TASK}/delta_m"
SINGLES = "its single tasks"  # where another variant's name stands
OWN = "Delta_m, each against its own single tasks"
BETWEEN = "Delta_m between variants, each against its own single tasks"
SAME = "Delta_m between variants, both against the single tasks of the baseline"


def delta_m_sections(plan: Plan, output: Path, missing: list[str]) -> list[Content]:
    """A section of Delta_m, and where variants with several tasks are compared, sections of the differences.

    missing: gets a line for each seed whose Delta_m there cannot be.
    """
    if not plan.single_tasks:
        return []
    variants = {variant.name: variant for variant in plan.variants}
    found = {
        (name, name): _by_seed(plan, output, variants[name], of, missing) for name, of in plan.single_tasks.items()
    }
    own = {name: found[name, name] for name in plan.single_tasks}
    sections = [_section(OWN, own, compared({name: (SINGLES, values) for name, values in own.items()}, DELTA_M))]
    pairs = {name: of for name, of in plan.baselines.items() if name in own and of in own}
    if pairs:
        sections.append(_section(BETWEEN, own, compare_pairs(own, pairs, DELTA_M)))
    # With one reference for both: what the variant does to single tasks too is not taken away from it.
    unlike = {name: of for name, of in pairs.items() if plan.single_tasks[name] != plan.single_tasks[of]}
    if unlike:
        values: dict[str, Mapping[int, float]] = {}
        differences = {}
        for name, baseline in unlike.items():
            values[name] = _by_seed(plan, output, variants[name], plan.single_tasks[baseline], missing)
            shared = [seed for seed in values[name] if seed in own[baseline]]
            differences[name] = (baseline, {seed: values[name][seed] - own[baseline][seed] for seed in shared})
        sections.append(_section(SAME, values, compared(differences, DELTA_M)))
    return sections


def _section(title: str, values: Mapping[str, Mapping[int, float]], comparisons: Mapping[str, Content]) -> Content:
    """values: variant -> seed -> percent."""
    runs = {name: {str(seed): {"value": value} for seed, value in of.items()} for name, of in values.items()}
    return {
        **about_metric(DELTA_M),
        "unit": "%",
        "title": title,
        "variants": {name: {**summary_of(of), "runs": runs[name]} for name, of in values.items()},
        "comparisons": dict(comparisons),
    }


def _by_seed(
    plan: Plan, output: Path, variant: Variant, singles: Mapping[str, str], missing: list[str]
) -> dict[int, float]:
    """Percent for each seed of which all runs are there."""
    configs = {each.name: each.load() for each in plan.variants if each.name in (variant.name, *singles.values())}
    variants = {each.name: each for each in plan.variants}
    headlines = headlines_of(configs[variant.name])
    lower = [task for task, name in headlines.items() if not find_metric(name).higher_is_better]
    found = {}
    for seed in plan.seeds:
        several = {task: read_run(run_folder(output, variant, seed), name) for task, name in headlines.items()}
        single = {
            task: read_run(run_folder(output, variants[name], seed), headlines_of(configs[name])[task])
            for task, name in singles.items()
        }
        pairs = {task: (several[task], single[task]) for task in headlines}
        known = {task: (one.value, other.value) for task, (one, other) in pairs.items() if one and other}
        if len(known) < len(headlines):
            continue
        try:
            values = {task: value for task, (value, _) in known.items()}
            found[seed] = delta_m(values, {task: value for task, (_, value) in known.items()}, lower_is_better=lower)
        except ValueError as error:
            missing.append(f"Delta_m of {variant.name}, seed {seed}: {error}")
    return found
