"""One table over many folders of runs, from their inference/results.json: what `train_net.py --eval-only` left there.

A run without that file is listed with its last evaluation during training, and "-" for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from scaleeq.engine import load_config
from scaleeq.files import read_json, write_json, write_text
from scaleeq.markdown import table
from scaleeq.records import Json
from scaleeq.tables import csv_text, latex
from scaleeq.tasks.metric import HEADLINE

from .plan import differing, flat
from .runs import IGNORED_KEYS, curve, read_metrics

RESULTS = Path("inference") / "results.json"
Record = Json  # what is known about a run
NOT_COMPARED = (*IGNORED_KEYS, "MODEL.WEIGHTS")
HEADERS = ("run", "{metric}", "parameters, M", "multiply-adds, G", "ms an image", "weights", "engine", "differs in")


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """The folders of runs among and below the given ones, in their order.

    FileNotFoundError: there is none in one of them.
    """
    found: list[Path] = []
    for folder in folders:
        below = {path.parents[1] for path in folder.rglob(str(RESULTS))} | {
            p.parent for p in folder.rglob("metrics.json")
        }
        if not below:
            raise FileNotFoundError(
                f"{folder} holds no run: neither {RESULTS}, which train_net.py --eval-only writes, nor metrics.json"
            )
        found += sorted(below - set(found))
    return found


def read_result(folder: Path, metric: str) -> Record:
    """What is known about a run: metric and the fields of results.json, None where it is not known; "config": flat."""
    results = read_json(folder / RESULTS)
    if results:
        value: object = results
        for part in metric.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
    else:
        points = curve(read_metrics(folder / "metrics.json"), metric)
        value = points[-1][1] if points else None
    # The config that was evaluated.
    configs = [path for path in (folder / RESULTS.parent / "config.yaml", folder / "config.yaml") if path.is_file()]
    return {
        "run": str(folder),
        metric: value,
        **{key: results.get(key) for key in ("parameters", "multiply_adds", "seconds_per_image", "device")},
        "weights": results.get("weights_kind") if results else "trained, not evaluated again",
        "weights_sha256": results.get("weights_sha256"),
        "engine": results.get("engine"),
        "config": flat(load_config(configs[0])) if configs else {},
    }


def compare_runs(folders: Iterable[Path], metric: str = HEADLINE.name) -> list[Record]:
    """A record for each run; "differs_in" instead of its config: the keys that are not the same in all."""
    records = [read_result(folder, metric) for folder in find_runs(folders)]
    known = {record["run"]: record["config"] for record in records if record["config"]}
    differs = differing(known, ignore=NOT_COMPARED)
    return [
        {
            **{key: value for key, value in record.items() if key != "config"},
            "differs_in": differs.get(record["run"], {}),
        }
        for record in records
    ]


def runs_table(records: Sequence[Record], metric: str = HEADLINE.name, *, style: str = "markdown") -> str:
    """What compare_runs gives, as "markdown" or "latex"."""

    def scaled(value: float | None, factor: float, digits: int) -> str:
        return "-" if value is None else f"{value * factor:.{digits}f}"

    rows = [
        (
            record["run"],
            scaled(record[metric], 1, 2),
            scaled(record["parameters"], 1e-6, 2),
            scaled(record["multiply_adds"], 1e-9, 2),
            scaled(record["seconds_per_image"], 1e3, 1),
            record["weights"] or "-",
            record["engine"] or "-",
            ", ".join(f"{key} {value!r}" for key, value in record["differs_in"].items()) or "-",
        )
        for record in records
    ]
    headers = [header.format(metric=metric) for header in HEADERS]
    return table(rows, headers) if style == "markdown" else latex(rows, headers)


def write_runs(records: Sequence[Record], output: Path, metric: str = HEADLINE.name) -> list[Path]:
    """runs.json, .md, .csv and .tex; returns their paths."""
    paths = [output / f"runs.{suffix}" for suffix in ("json", "md", "csv", "tex")]
    write_json(paths[0], {"metric": metric, "runs": list(records)})
    write_text(paths[1], runs_table(records, metric) + "\n")
    headers = list(dict.fromkeys(key for record in records for key in record))
    write_text(paths[2], csv_text([[record.get(key) for key in headers] for record in records], headers))
    write_text(paths[3], runs_table(records, metric, style="latex") + "\n")
    return paths
