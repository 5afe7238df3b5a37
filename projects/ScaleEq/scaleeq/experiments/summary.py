"""From the folders of a comparison to its numbers: the content of comparison.json.

Every number is of the last evaluation of each run. Runs that are missing are named; a pair counts where both runs are
there.
"""

from __future__ import annotations

import dataclasses
import platform
import re
from pathlib import Path
from typing import Any

from scaleeq import engine
from scaleeq.engine.__main__ import package_version

from .execute import run_folder
from .plan import Plan
from .runs import Run, read_run
from .statistics import ALPHA, CONFIDENCE, Difference, holm, paired_difference, runs_needed, summarize

Content = dict[str, Any]  # of comparison.json, or of a part of it
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy")
TARGETS = (0.1, 0.2, 0.4)  # differences whose number of runs is told, in the metric's unit


def summarize_comparison(plan: Plan, output: Path) -> Content:
    """All numbers of a comparison, as plain values.

    ValueError: a run has no such metric.
    """
    runs = {variant.name: {seed: read_run(run_folder(output, variant, seed), plan.metric) for seed in plan.seeds}
            for variant in plan.variants}  # fmt: skip
    found = {name: {seed: run for seed, run in of.items() if run is not None} for name, of in runs.items()}
    differing = plan.differing_keys()
    return {
        "name": plan.name,
        "file": str(plan.file),
        "file_sha256": plan.sha256,
        "comment": question(plan.comment),
        "metric": plan.metric,
        "seeds": list(plan.seeds),
        "engines": sorted({str(run.record.get("engine")) for of in found.values() for run in of.values()}),
        "versions": _versions(),
        "confidence": CONFIDENCE,
        "missing": [f"{name}, seed {seed}" for name, of in runs.items() for seed, run in of.items() if run is None],
        "variants": {
            variant.name: {
                "config": variant.config,
                "differs_in": differing[variant.name],
                **_summary(found[variant.name]),
            }
            for variant in plan.variants
        },
        "comparisons": _comparisons(plan, found),
    }


def question(comment: str) -> str:
    """A file's comment as running text, without its lines about the command and about results from elsewhere."""
    lines = [line for line in comment.splitlines() if not line.startswith(("Command: ", "Results: "))]
    return re.sub(r"\n(?!\n|[A-Z][a-z]+: )", " ", "\n".join(lines)).strip()


def _summary(runs: dict[int, Run]) -> Content:
    return {
        **dataclasses.asdict(summarize([run.value for run in runs.values()])),
        "runs": {
            str(seed): {
                "value": run.value,
                **{key: run.record.get(key) for key in ("seconds", "peak_mib", "command")},
                "curve": run.curve,
                "loss": run.losses,
            }
            for seed, run in runs.items()
        },
    }


def _comparisons(plan: Plan, runs: dict[str, dict[int, Run]]) -> dict[str, Content]:
    """Variant -> its difference to its baseline, over the seeds that both have."""
    by_seed = {
        name: {
            seed: runs[name][seed].value - runs[baseline][seed].value
            for seed in plan.seeds
            if seed in runs[name] and seed in runs[baseline]
        }
        for name, baseline in plan.baselines.items()
    }
    differences = {name: paired_difference(list(of.values())) for name, of in by_seed.items()}
    adjusted = holm({name: of.p_t for name, of in differences.items() if of.p_t is not None})
    return {
        name: {
            "baseline": plan.baselines[name],
            "by_seed": {str(seed): value for seed, value in by_seed[name].items()},
            **dataclasses.asdict(of),
            "called": of.called,
            "p_holm": adjusted.get(name),
            "called_holm": adjusted[name] < ALPHA if name in adjusted else False,
            "runs_needed": _runs_needed(of),
        }
        for name, of in differences.items()
    }


def _runs_needed(difference: Difference) -> dict[str, int | None]:
    """Difference -> how many pairs would detect it, given how much these scatter; {} where that is not known."""
    if not difference.sd:
        return {}
    return {str(target): runs_needed(difference.sd, target) for target in TARGETS}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "engine": f"{engine.NAME} {engine.VERSION}"}
    return versions | {package: package_version(package) for package in ("scaleeq", *PACKAGES)}
