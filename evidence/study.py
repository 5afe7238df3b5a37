"""Short trainings, end to end, of pretrained models on CamVid: three comparisons, in the order of what they are worth.

    python -m evidence.study run [rates] [doses] [decoders] [fusions] [--jobs 2] [--output output/evidence]
    python -m evidence.study collect [...]             of the runs that are there: docs/results/study_<name>.json
    python -m evidence.study tables                    prints what docs/evidence.md has of them

`run` trains what is missing and collects, also where it is stopped (Ctrl-C): the same command goes on, on another
machine, too, as the runs that docs/results has of the same plan are not trained again. The comparisons are
evidence/plans/<name>.yaml, each with what it asks at its head; a run takes about 2 minutes of an idle core. rates comes
first: the others' rates were chosen by it, on a held-out part of the training set.
"""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaleeq import console

console.start()

import torch

from scaleeq.experiments.execute import execute, run_folder
from scaleeq.experiments.executors import Where
from scaleeq.experiments.plan import Plan, read_plan
from scaleeq.experiments.runs import RUN_FILE, finish_run
from scaleeq.experiments.statistics import Difference, holm, paired_difference
from scaleeq.experiments.summary import summarize_comparison
from scaleeq.files import read_json, write_json
from scaleeq.markdown import table
from scaleeq.reports.comparison_tables import heading, interval, number, p_value, sections
from scaleeq.reports.html import Content
from scaleeq.stopping import Stopped, stop_signals
from scaleeq.training.evaluate import hash_weights

from . import dosed
from .collected import kept

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
TRAIN = ("-m", dosed.__name__ if dosed.__name__ != "__main__" else "evidence.dosed")
EQUALIZED = "_equalized"
DOSES = {"x 0.01": "_x0.01", "x 1": "", "x 100": "_x100"}
NOT_RUN = "not run"
TRAINED = ("weights_sha256", "code")  # of a run
CODE = ("configs", "evidence", "projects")


def plan_of(name: str) -> Plan:
    """KeyError, ValueError: as read_plan."""
    return read_plan(Path(__file__).parent / "plans" / f"{name}.yaml")


def result_of(name: str) -> Path:
    return RESULTS / f"study_{name}.json"


def content_of(name: str) -> Content:
    """What docs/results has of a plan; {} where it has nothing."""
    return read_json(result_of(name))


def restore(plan: Plan, output: Path) -> None:
    """Folders of the runs that docs/results has of this very plan and `output` has not: what `execute` looks for."""
    content = content_of(plan.name)
    if content.get("file_sha256") != plan.sha256:
        return
    parts = sections(content)
    for variant, seed in plan.runs():
        folder, run = run_folder(output, variant, seed), content["variants"][variant.name]["runs"].get(str(seed))
        if run is None or (folder / RUN_FILE).is_file():
            continue
        cfg = variant.load(seed)
        values = {part["metric"]: part["variants"][variant.name]["runs"][str(seed)]["value"] for part in parts}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(cfg.dump())
        (folder / "metrics.json").write_text(json.dumps({"iteration": cfg.SOLVER.MAX_ITER - 1, **values}) + "\n")
        finish_run(folder, {**run, "engine": content["engines"][0]})


def collect(plan: Plan, output: Path, *, code: str | None = None) -> Content:
    """What the finished runs say, each with the hash of its weights and the commit; written where any has finished.

    code: the commit of the runs that none was noted for. Of those that were restored, what docs/results said.
    """
    content = kept(summarize_comparison(plan, output))
    content["file"] = f"evidence/plans/{plan.file.name}"
    content["command"] = f"python -m evidence.study run {plan.name}"
    for variant in plan.variants:
        content["variants"][variant.name]["config"] = variant.config
        for seed, run in content["variants"][variant.name]["runs"].items():
            folder = run_folder(output, variant, int(seed))
            record, weights = read_json(folder / RUN_FILE), folder / "model_final.pth"
            if weights.is_file() and not set(TRAINED) <= set(record):
                state = torch.load(weights, map_location="cpu", weights_only=True)["model"]
                record |= zip(TRAINED, (hash_weights(state)[:16], code), strict=True)
                write_json(folder / RUN_FILE, record)
            run |= {key: record.get(key) for key in TRAINED}
    if any(variant["n"] for variant in content["variants"].values()):
        write_json(result_of(plan.name), content, indent=1)
    return content


def commit() -> str | None:
    """What is checked out, "-dirty" where the code differs from it: results that are written do not count. None where
    there is no repository, or no git.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        head, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=False).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", *CODE])
        )
    except FileNotFoundError:
        return None
    return (f"{head}-dirty" if changed else head) or None


def run(names: Sequence[str], output: Path, jobs: int) -> int:
    """Train and collect; the exit status."""
    failed, code = 0, commit()  # before the hours in which another one may be checked out
    for name in names:
        plan = plan_of(name)
        restore(plan, output / name)
        try:
            with stop_signals(at_once=True):
                failed += len(execute(plan, output / name, train=TRAIN, where=Where(jobs=jobs), say=_say))
        except Stopped as stop:
            collect(plan, output / name, code=code)
            _say("Stopped; what is finished is in docs/results, and the same command goes on.")
            return 128 + stop.number
        collect(plan, output / name, code=code)
    return console.FAILED if failed else 0


def rates_table(content: Content) -> str:
    """Markdown: mIoU on held-out training images at each rate, of off, equalized, and their mean, which chooses."""
    rows = []
    for name in content["variants"]:
        if not name.endswith(EQUALIZED):
            means = [content["variants"][each]["mean"] for each in (name, name + EQUALIZED)]
            known = [mean for mean in means if mean is not None]
            both = sum(known) / 2 if len(known) == 2 else None
            optimizer, rate = name.split("_")
            rows.append((f"{optimizer.upper()}, {rate}", *map(_mean, means), _mean(both)))
    return table(rows, ("optimizer, rate", "off", "equalized", "mean of both"))


def doses_table(content: Content) -> str:
    """Markdown: each decoder and optimizer at each dose of res5: mIoU, and what equalizing gains."""
    rows = []
    for start in _starts(content):
        cells = []
        for ending in DOSES.values():
            compared = content["comparisons"].get(f"{start}{ending}{EQUALIZED}", {})
            mean = content["variants"].get(f"{start}{ending}", {}).get("mean")
            pairs = compared.get("n")
            cells += [_mean(mean), f"{_gain(compared)}, n {pairs}" if pairs else NOT_RUN]
        rows.append((start, *cells))
    headers = [f"{what}, {dose}" for dose in DOSES for what in ("off", "equalized - off")]
    return table(rows, ("decoder, optimizer", *headers))


def decoders_table(content: Content) -> str:
    """Markdown: each decoder and optimizer, off and equalized; then pooled: of all pairs, and of the rows as units."""
    rows = []
    for name, compared in content["comparisons"].items():
        off, equalized = (content["variants"][each]["mean"] for each in (compared["baseline"], name))
        p = p_value(compared["p_holm"])
        rows.append((compared["baseline"], str(compared["n"]), _mean(off), _mean(equalized), _gain(compared), p))
    pooled, means = pool(content), [of["mean"] for of in content["comparisons"].values() if of["n"]]
    for name, difference in (("all pairs", pooled), ("the rows, each as one", paired_difference(means))):
        of = asdict(difference)
        lower = f"; {difference.lower} of {difference.n} below 0"
        rows.append((name, str(difference.n), "", "", f"{_gain(of)}{lower if difference.n else ''}", ""))
    return table(rows, ("decoder, optimizer", "pairs", "off", "equalized", "difference (95 % interval)", "p (Holm)"))


def fusions_table(content: Content) -> str:
    """Markdown: each metric of each fusion, the difference to the first, and Holm's p over all of these differences."""
    parts = sections(content)
    compared = {f"{name} {part['metric']}": of for part in parts for name, of in part["comparisons"].items()}
    p = holm({key: of["p_t"] for key, of in compared.items() if of.get("p_t") is not None})
    rows = []
    for part in parts:
        for name, variant in part["variants"].items():
            key = f"{name} {part['metric']}"
            of = compared.get(key)
            cells = (_gain(of), p_value(of.get("p_t")), p_value(p.get(key))) if of else ("-",) * 3
            rows.append((heading(part), name, str(variant["n"]), _mean(variant["mean"]), *cells))
    return table(rows, ("metric", "pyramid", "runs", "mean", "- fpn (95 % interval)", "p (t)", "p (Holm)"))


def pool(content: Content, *patterns: str) -> Difference:
    """Of all pairs of the cells whose equalized variants have names of a pattern, as one sample; of all without one."""
    found = [
        of
        for name, of in content["comparisons"].items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns or "*")
    ]
    return paired_difference([value for of in found for value in of["by_seed"].values()])


def gained(name: str, *patterns: str) -> Difference:
    """What a plan's variants have over what they are compared with, pooled; of no pairs where none was run."""
    return pool(content_of(name) or {"comparisons": {}}, *patterns)


TABLES = {"rates": rates_table, "doses": doses_table, "decoders": decoders_table, "fusions": fusions_table}
PLANS = tuple(TABLES)


def tables() -> dict[str, str]:
    """Name of a plan -> its table; "not run" where docs/results has nothing of it."""
    return {name: make(content) if (content := content_of(name)) else NOT_RUN for name, make in TABLES.items()}


def counts() -> dict[str, int]:
    """Name of a plan -> its trainings that are finished."""
    variants = {name: content_of(name).get("variants", {}) for name in PLANS}
    return {name: sum(variant["n"] for variant in found.values()) for name, found in variants.items()}


def _starts(content: Content) -> list[str]:
    """decoder_optimizer, each once, in the plan's order."""
    return list(dict.fromkeys(re.sub(r"(_x[\d.]+)?(_equalized)?$", "", name) for name in content["variants"]))


def _mean(value: float | None) -> str:
    return NOT_RUN if value is None else number(value, 1)


def _gain(compared: Mapping[str, Any]) -> str:
    """ "+1.20 (-0.10 to +2.50)"."""
    if not compared.get("n"):
        return NOT_RUN
    return f"{number(compared['mean'], sign=True)} ({interval(dict(compared))})"


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = console.parser(__doc__)
    parser.add_argument("what", choices=("run", "collect", "tables"))
    parser.add_argument("names", nargs="*", default=list(PLANS), metavar="NAME", help=f"of {', '.join(PLANS)}")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "evidence")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in PLANS]:
        raise ValueError(f"{unknown[0]!r} is no comparison of the study; there are {', '.join(PLANS)}")
    if arguments.what == "run":
        return run(arguments.names, arguments.output, arguments.jobs)
    if arguments.what == "collect":
        for plan in map(plan_of, arguments.names):
            restore(plan, arguments.output / plan.name)
            collect(plan, arguments.output / plan.name)
    for name, text in tables().items():
        print(f"{name}\n\n{text}\n")
    return 0


if __name__ == "__main__":
    console.run(main)
