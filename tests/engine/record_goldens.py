"""Record Detectron2's side, for machines without it: python -m tests.engine.record_goldens

To be run where the real Detectron2 is installed, with projects/ScaleEq on PYTHONPATH. Writes goldens/static.json,
goldens/signatures.json and, through record_goldens_running, goldens/running.json.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaleeq.engine.contract import load_names
from tests.engine.record_goldens_running import record_goldens as record_running
from tests.engine.running_sides import plain
from tests.engine.signatures import members
from tests.engine.static_scenarios import SCENARIOS

FOLDER = Path(__file__).parent / "goldens"


def run_scenario(scenario: Any, side: Any, folder: Path) -> Any:
    """What a scenario of the static half records for one side, as it looks after a trip through JSON."""
    return plain(scenario(SimpleNamespace(**load_names(side)), folder))


def write_lines(path: Path, records: dict[str, Any]) -> None:
    """One line per record, so that a difference shows its name."""
    lines = [f"{json.dumps(name)}: {json.dumps(record, separators=(',', ':'))}" for name, record in records.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def record_goldens() -> None:
    records = {}
    for name, scenario in SCENARIOS.items():
        with tempfile.TemporaryDirectory() as folder:
            records[name] = run_scenario(scenario, "detectron2", Path(folder))
    write_lines(FOLDER / "static.json", records)
    names = load_names("detectron2")
    write_lines(
        FOLDER / "signatures.json", {name: members(thing, ("detectron2", "fvcore")) for name, thing in names.items()}
    )


if __name__ == "__main__":
    record_goldens()
    record_running()
