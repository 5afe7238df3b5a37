"""What a run's folder says: its metric and its losses over the iterations, and whether it is the run that is wanted.

Reads config.yaml, metrics.json and inference/results.json as training and evaluation write them. A run of a comparison
that has ended well has run.json, too.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path

from scaleeq.engine import load_config
from scaleeq.files import read_json, write_json
from scaleeq.records import Json

from .plan import Values, differing, flat

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
LOSS = "total_loss"
# These make no difference to the result, or cannot be compared.
IGNORED_KEYS = (
    "OUTPUT_DIR",
    "VERSION",
    "DATALOADER.",
    "MODEL.DEVICE",
    "TEST.EXPECTED_RESULTS",
    "SOLVER.KEEP_CHECKPOINTS",
    "SOLVER.KEEP_WEIGHTS_ALONE",
    "SOLVER.KEEP_LINKED",
)
Row = Json  # a line of metrics.json
MAX_POINTS = 200  # of a curve


@dataclass(frozen=True)
class Run:
    """A run that has ended well.

    value: of the metric, at the last evaluation. curve, losses: (iteration, value), the losses thinned to MAX_POINTS.
    record: the content of run.json.
    """

    folder: Path
    value: float
    curve: list[tuple[int, float]]
    losses: list[tuple[int, float]]
    record: Values


def read_metrics(path: Path) -> list[Row]:
    """The lines of metrics.json that count, by iteration: what came again after a resumption replaces what was there.

    A line that is not whole, as a kill leaves it, is left out, with a warning.
    """
    lines: dict[int, Row] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for number, line in enumerate(text.split("\n"), start=1):
        row = _row(line)
        if row is None:
            if line:
                logger.warning("%s: line %d is not whole, and left out: %.60r", path, number, line)
        elif row.get("resumed"):
            lines = {iteration: kept for iteration, kept in lines.items() if iteration < row["iteration"]}
        else:
            lines[row["iteration"]] = {**lines.get(row["iteration"], {}), **row}
    return [lines[iteration] for iteration in sorted(lines)]


def _row(line: str) -> Row | None:
    """A line of metrics.json; None: it is none. NaN may be in it."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("iteration"), int) else None


def curve(rows: list[Row], name: str) -> list[tuple[int, float]]:
    """(iteration, value) of one scalar, finite values alone."""
    numbers = [(row["iteration"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    return [(iteration, value) for iteration, value in numbers if math.isfinite(value)]


def thinned(points: list[tuple[int, float]], most: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most so many points: means over neighbours."""
    step = max(1, math.ceil(len(points) / most))
    groups = [points[first : first + step] for first in range(0, len(points), step)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def read_run(folder: Path, metric: str) -> Run | None:
    """The run in a folder; None where it has not ended well.

    ValueError: it has, but without a finite value of that metric.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        return None
    rows = read_metrics(folder / "metrics.json")
    points = curve(rows, metric)
    if not points:
        known = sorted(name for row in rows for name in row if name.count("/") == 1 and not name.startswith("scale/"))
        raise ValueError(
            f"{folder} has no finite {metric} in its metrics.json; set metric to one of "
            f"{', '.join(dict.fromkeys(known)) or 'those that its evaluation writes: there is none'}"
        )
    record = read_json(file)
    if not record:
        raise ValueError(f"{file} cannot be read; delete it, and its run is taken up again from the last checkpoint")
    return Run(folder, points[-1][1], points, thinned(curve(rows, LOSS)), record)


def changed_keys(folder: Path, wanted: Values) -> dict[str, str]:
    """key -> "old -> new", where the run in a folder has another config than the wanted one; {} where there is none.

    A start writes config.yaml in place: one that ends within a line, or changes while it is read, is being written by
    another's run, or was cut short by a kill. It is left to the training, which compares its model and its data with
    those of the checkpoint.
    """
    file = folder / "config.yaml"
    if not file.is_file() or not any((*folder.glob("*.pth"), *folder.glob(RUN_FILE))):
        return {}
    before = file.read_bytes()
    if not before.endswith(b"\n"):
        return {}
    try:
        both = differing({"there": flat(load_config(file)), "wanted": wanted}, ignore=IGNORED_KEYS)
        found = {key: f"{value!r} -> {both['wanted'][key]!r}" for key, value in both["there"].items()}
    except (KeyError, ValueError) as error:
        found = {"config.yaml": f"cannot be read: {error}"}
    return found if file.read_bytes() == before else {}


def finish_run(folder: Path, record: Values) -> None:
    """Mark a run as ended well; its numbered checkpoints, older states of what model_final.pth holds, are deleted."""
    if (folder / "model_final.pth").is_file():
        for path in folder.glob("model_[0-9]*.pth"):
            path.unlink()
    write_json(folder / RUN_FILE, record)
