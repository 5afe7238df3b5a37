"""The tables of speed in docs/, of docs/results/{decoders,accelerate,evaluation_speed_values,export}.json.

`python -m evidence.tables` writes them into the pages. What has not been measured is printed as "not run".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from .benchmark_accelerate import MODELS
from .benchmark_decoders import WORKS
from .benchmark_export import FAMILIES

RESULTS = Path(__file__).parents[1] / "docs" / "results"
NOT_RUN = "not run"
HEADS = ("uper", "psp", "aspp", "semantic")  # how the names of works on decoders begin
LOSSES = ("cross", "arg")
STEPS = ("fapn", "step", "help")


def decoder_speed_table() -> str:
    """Markdown: decoders beside their peers' heads."""
    return _speed_table(HEADS)


def loss_speed_table() -> str:
    """Markdown: losses and labels of upsampled logits."""
    return _speed_table(LOSSES)


def step_speed_table() -> str:
    """Markdown: a pyramid's training, a whole step, the start of a command."""
    return _speed_table(STEPS)


def decoder_speed_setting() -> str:
    """What the numbers of docs/results/decoders.json are of, as a sentence."""
    works = list(_record("decoders.json")["works"].values())
    torch_versions = sorted({work["torch"] for work in works})
    packages = {f"{name} {version}" for work in works for name, version in work["peers"].items()}
    processors = sorted({work["machine"]["processor"] for work in works})
    rounds = sorted({work["rounds"] for work in works})
    loads = sorted(load for work in works for load in work["machine"]["load"])
    threads = sorted({work["threads"] for work in works})
    return (
        f"torch {', '.join(torch_versions)}; {', '.join(sorted(packages))}; {', '.join(processors)}; threads: "
        f"{', '.join(map(str, threads))}; rounds: {rounds[0]} to {rounds[-1]}; load average {loads[0]} to {loads[-1]}."
    )


def _speed_table(beginnings: Sequence[str]) -> str:
    rows: list[tuple[str, ...]] = []
    works = _record("decoders.json")["works"]
    for name in (name for name in WORKS if name.startswith(tuple(beginnings))):
        if name not in works:
            rows.append((WORKS[name][0], NOT_RUN, "", "", "", "", ""))
            continue
        work = works[name]
        for index, row in enumerate(work["rows"]):
            title = work["title"] if index == 0 else ""
            if row["contender"] == row["to"]:
                peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f} MB"
                rows.append((title, row["contender"], "", f"{row['cpu_s']:.2f} s", peak, "", ""))
            else:
                rows.append((title, row["contender"], row["to"], *_cells(row)))
    headers = ("work", "contender", "to", "CPU time", "peak memory", "at most", "difference")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Time, peak, goal, and the largest difference of outputs, or of gradients in float64."""
    low, middle, high = row["cpu_ratio"]
    goals = ["-" if goal is None else f"{goal:.2f}" for goal in row["goal"]]
    peak = "" if row["peak_ratio"] is None else f"{row['peak_ratio']:.2f}{_over(row['peak_ratio'], row['goal'][1])}"
    found, gradient = row["difference"], row["gradient_difference"]
    difference = "another function"
    if found is not None or gradient is not None:
        difference = f"{found:.0e}" if found is not None else f"{gradient:.0e} (gradients, float64)"
    time = f"{middle:.2f} [{low:.2f} {high:.2f}]{_over(middle, row['goal'][0])}"
    return time, peak, "" if row["goal"] == [None, None] else ", ".join(goals), difference


def _over(ratio: float, goal: float | None) -> str:
    return " (over)" if goal is not None and round(ratio, 2) > goal else ""


def accelerate_table() -> str:
    """Markdown: whole models through accelerate, as ratios to themselves."""
    rows: list[tuple[str, ...]] = []
    for run in _record("accelerate.json")["runs"]:
        setting = f"{run['size']} x {run['size']}, batch {run['batch']}"
        for name in MODELS:
            model = run["models"].get(name, {"skipped": ""})
            if "skipped" in model:
                rows.append((name, setting, NOT_RUN, NOT_RUN, model["skipped"]))
                continue
            times = []
            for kind in ("inference", "training"):
                quartiles = model.get(f"{kind}_cpu_ratio_quartiles")
                times.append(NOT_RUN if quartiles is None else "{1:.2f} [{0:.2f} {2:.2f}]".format(*quartiles))
            rows.append((name, setting, *times, str(model["fusions"])))
    headers = ("model", "images", "inference", "training step", "fusions per branch")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def values_speed_table() -> str:
    """Markdown: how fast predictions of dense tasks are scored, and the reference's time by ours in the same run."""
    rows = []
    for row in _record("evaluation_speed_values.json")["rows"]:
        ratio = "no reference" if row["ratios"] is None else "{1:.2f} [{0:.2f} {2:.2f}]".format(*row["ratios"])
        rows.append((row["task"], " x ".join(map(str, row["size"])), f"{row['images_per_s']:.1f}", ratio))
    headers = ("scored", "pixels", "images a second", "CPU time of ten lines of numpy / ours")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def export_table() -> str:
    """Markdown: exported files beside the models that they were made of."""
    rows: list[tuple[str, ...]] = []
    found = _record("export.json")["families"] if (RESULTS / "export.json").is_file() else {}
    for name in FAMILIES:
        if name not in found:
            rows.append((name, NOT_RUN, "", "", ""))
            continue
        run = found[name]
        sizes = ", ".join("x".join(map(str, size)) for size in run["sizes"])
        time = "{1:.2f} [{0:.2f} {2:.2f}]".format(*run["ratio_quartiles"])
        rows.append((name, f"{run['difference']:.0e}", sizes, f"{run['file_mb']:.1f}", time))
    headers = ("family", "largest difference", "at", "MB", "CPU time / torch's")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def _record(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text())


TABLES = {
    "docs/performance.md": (decoder_speed_table, loss_speed_table, step_speed_table, decoder_speed_setting),
    "docs/accelerate.md": (accelerate_table,),
    "docs/multitask.md": (values_speed_table,),
    "docs/export.md": (export_table,),
}
