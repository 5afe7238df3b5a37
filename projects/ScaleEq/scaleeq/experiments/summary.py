"""From the folders of a comparison to its numbers: the content of comparison.json.

Every number is of the last evaluation of each run. Runs that are missing are named; a pair counts where both runs are
there.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

from scaleeq import engine
from scaleeq.engine.__main__ import package_version

from .execute import run_folder
from .multi_task import delta_m_sections
from .plan import Plan
from .runs import Run, read_run
from .sections import Content, about_metric, compare_pairs, summary_of
from .statistics import CONFIDENCE

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy")


def summarize_comparison(plan: Plan, output: Path) -> Content:
    """All numbers of a comparison, as plain values: those of the first metric, and under "more" of each other one.

    ValueError: a run has no such metric.
    """
    first, *others = plan.metrics
    found = {metric: _runs_of(plan, output, metric) for metric in plan.metrics}
    missing = [
        f"{variant.name}, seed {seed}"
        for variant in plan.variants
        for seed in plan.seeds
        if seed not in found[plan.measured[variant.name][0]][variant.name]
    ]
    more = [
        {
            **about_metric(metric),
            "variants": {name: _summary(of, whole=False) for name, of in found[metric].items()},
            "comparisons": compare_pairs(_values(found[metric]), plan.baselines, metric),
        }
        for metric in others
    ]
    engines = {str(run.record.get("engine")) for of in found.values() for runs in of.values() for run in runs.values()}
    differing = plan.differing_keys()
    return {
        "name": plan.name,
        "file": str(plan.file),
        "file_sha256": plan.sha256,
        "comment": question(plan.comment),
        **about_metric(first),
        "seeds": list(plan.seeds),
        "engines": sorted(engines),
        "versions": _versions(),
        "confidence": CONFIDENCE,
        "missing": missing,  # gets lines of "more"
        "variants": {
            variant.name: {
                "config": variant.config,
                "differs_in": differing[variant.name],
                "has_metric": first in plan.measured[variant.name],
                **_summary(
                    found[plan.measured[variant.name][0]][variant.name], of_metric=first in plan.measured[variant.name]
                ),
            }
            for variant in plan.variants
        },
        "comparisons": compare_pairs(_values(found[first]), plan.baselines, first),
        "more": [*more, *delta_m_sections(plan, output, missing)],
    }


def _runs_of(plan: Plan, output: Path, metric: str) -> dict[str, dict[int, Run]]:
    """Variant -> seed -> run, of those that are there; variants without the metric are not in it."""
    return {
        variant.name: {
            seed: run for seed in plan.seeds if (run := read_run(run_folder(output, variant, seed), metric)) is not None
        }
        for variant in plan.variants
        if metric in plan.measured[variant.name]
    }


def _values(runs: dict[str, dict[int, Run]]) -> dict[str, dict[int, float]]:
    return {name: {seed: run.value for seed, run in of.items()} for name, of in runs.items()}


def question(comment: str) -> str:
    """A file's comment as running text, without its lines about the command and about results from elsewhere."""
    lines = [line for line in comment.splitlines() if not line.startswith(("Command: ", "Results: "))]
    return re.sub(r"\n(?!\n|[A-Z][a-z]+: )", " ", "\n".join(lines)).strip()


def _summary(runs: dict[int, Run], *, of_metric: bool = True, whole: bool = True) -> Content:
    """of_metric: False: of a variant without the metric, whose runs are told all the same. whole: what was run, too."""
    values = {seed: run.value for seed, run in runs.items()} if of_metric else {}
    keys = ("seconds", "peak_mib", "command") if whole else ()
    return {
        **summary_of(values),
        "runs": {
            str(seed): {
                **({"value": run.value, "curve": run.curve} if of_metric else {"curve": []}),
                **{key: run.record.get(key) for key in keys},
                **({"loss": run.losses} if whole else {}),
            }
            for seed, run in runs.items()
        },
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "engine": f"{engine.NAME} {engine.VERSION}"}
    return versions | {package: package_version(package) for package in ("scaleeq", *PACKAGES)}
