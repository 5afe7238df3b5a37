"""docs/results/joint_toy.json from a comparison of joint and single tasks, and the tables that documents print of it.

    scaleeq compare configs/ablations/joint_toy.yaml --seeds 0 1 2 --output output/joint_toy
    scaleeq benchmark toy/sem_seg_3d toy/multitask --size 128 128 --batch 8 --json > output/step.jsonl
    python -m evidence.joint_toy output/joint_toy --code COMMIT [--steps output/step.jsonl] [--note TEXT]

The file keeps what comparison.json says but for curves, losses and paths; `--steps` adds what a training step costs.
docs/joint_tasks.md gets the tables between its two marks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from scaleeq import console
from scaleeq.files import write_json
from scaleeq.reports.comparison_tables import decimals, heading, interval, number, sections
from scaleeq.reports.html import Content

from .collected import collected, mean_and_sd
from .printed import put

RESULT = Path(__file__).parents[1] / "docs" / "results" / "joint_toy.json"
PAGE = Path(__file__).parents[1] / "docs" / "joint_tasks.md"
JOINT, EQUALIZED = "joint", "_equalized"


def table(content: Content) -> str:
    """Markdown: a row a model: the mean and standard deviation of each headline, and Delta_m with its interval."""
    metrics = [part for part in sections(content) if "title" not in part]
    own = next(part for part in sections(content) if part.get("title"))  # the first: against its own single tasks
    names = [name for name in content["variants"] if name.startswith(JOINT)]
    rows = []
    for ending in ("", EQUALIZED):
        cells = [_value(part, f"{part['metric'].partition('/')[0]}{ending}") for part in metrics]
        rows.append((f"single tasks{' equalized' if ending else ''}", *cells, "-"))
    for name in names:
        delta = own["comparisons"].get(name, {"mean": None, "low": None})
        cells = [_value(part, name) for part in metrics]
        rows.append((name.replace("_", " "), *cells, f"{number(delta['mean'], sign=True)} ({interval(delta)})"))
    headers = ("model", *(_header(part) for part in metrics), "Delta_m, % (95 % interval)")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def differences_table(content: Content) -> str:
    """Markdown: equalized minus plain over paired seeds, of every model and headline, and of Delta_m."""
    rows = []
    for part in sections(content):
        if part.get("title", "").startswith("Delta_m, each"):
            continue
        for name, compared in part["comparisons"].items():
            digits = decimals(part)
            by_seed = ", ".join(number(value, digits, sign=True) for value in compared["by_seed"].values())
            means = f"{number(compared['mean'], digits, sign=True)}", interval(compared, digits)
            called = "not run" if not compared["n"] else _called(compared)
            rows.append((heading(part), f"{name} - {compared['baseline']}", *means, by_seed, called))
    headers = ("metric", "models", "mean", "95 % interval", "by seed", "difference")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def step_table(content: Content) -> str:
    """Markdown: a training step of several tasks and of one, as `scaleeq benchmark` measured it; "not run" without."""
    rows = []
    for record in content.get("steps") or ():
        low, middle, high = record["training_cpu_ratio"]
        rows.append((f"`{record['config']}`", f"{middle:.2f}", f"{low:.2f} to {high:.2f}"))
    headers = ("config", "CPU time of a training step, ratio", "quartiles")
    return tabulate(rows or [("not run",) * 3], headers=headers, tablefmt="github", disable_numparse=True)


def tables(content: Content) -> str:
    """All three, as documents have them."""
    return "\n\n".join(make(content) for make in (table, differences_table, step_table))


def _header(section: Mapping[str, Any]) -> str:
    metric = section["metric"].replace("odsF", "odsF (python)")
    lower = "" if section["higher_is_better"] else ", lower is better"
    return f"{metric}, {section['unit']}{lower}"


def _value(section: Mapping[str, Any], name: str) -> str:
    variant = section["variants"].get(name, {"mean": None, "sd": None})
    return mean_and_sd(variant["mean"], variant["sd"], decimals(section))


def _called(compared: Content) -> str:
    if not compared["called"]:
        return "none can be called"
    return "better" if compared["better"] else "worse"


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("output", type=Path, help="of the comparison: holds comparison.json")
    parser.add_argument("--code", required=True, help="the commit that trained")
    parser.add_argument("--steps", type=Path, help="what scaleeq benchmark --json printed")
    parser.add_argument("--note", default="", help="what else should be known of the runs")
    arguments = parser.parse_args()
    content = collected(arguments.output, code=arguments.code, note=arguments.note)
    lines = arguments.steps.read_text().splitlines() if arguments.steps else []
    content["steps"] = [json.loads(line) for line in lines if line.strip()]
    write_json(RESULT, content)
    put(PAGE, "joint_tables", tables(content))
    print(tables(content))


if __name__ == "__main__":
    console.run(main)
