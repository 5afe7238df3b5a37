"""Record Detectron2's side of the scenarios of its running half: python -m tests.engine.record_goldens_running

To be run where the real Detectron2 is installed, with projects/ScaleEq on PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.engine.running_distributed import run_rank
from tests.engine.running_scenarios import TRAINING_SCENARIOS
from tests.engine.running_scenarios_io import IO_SCENARIOS
from tests.engine.running_sides import load_side, plain

SCENARIOS = {**TRAINING_SCENARIOS, **IO_SCENARIOS}
PATH = Path(__file__).parent / "goldens" / "running.json"


def two_processes(side: str, folder: Path) -> list[Any]:
    """What both ranks of a job of two processes on CPU saw, started by that side's launch."""
    with patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""):  # the children see it: gloo, also where a GPU is
        load_side(side).launch(run_rank, 2, dist_url=f"file://{folder}/rendezvous", args=(side, str(folder)))
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def record_goldens() -> None:
    """Write goldens/running.json, one line per scenario."""
    records: dict[str, Any] = {}
    for name, scenario in sorted(SCENARIOS.items()):
        with tempfile.TemporaryDirectory() as folder:
            records[name] = plain(scenario(load_side("detectron2"), Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        records["two_processes"] = two_processes("detectron2", Path(folder))
    lines = [
        f"{json.dumps(name)}: {json.dumps(record, sort_keys=True, separators=(',', ':'))}"
        for name, record in records.items()
    ]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    record_goldens()
