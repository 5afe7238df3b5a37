"""The benchmark's numbers as text: what a run prints, and what stands in the documents."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..printed import between
from .contenders import benchmark_table, default_threads
from .stored import memory_line


def machine(load: Sequence[float]) -> dict[str, Any]:
    """Where it was measured. load: averages of a minute, before and after."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": (models or [platform.processor() or platform.machine()])[0],
        "cores": default_threads(),
        "load": [round(value, 1) for value in load],
    }


def printed(record: dict[str, Any]) -> str:
    """All tables of a record, with the versions and the machine's load."""
    rows = [*record["counting"], *record.get("stored", [])]
    versions = sorted({row["version"] for row in rows if row["version"]})
    where, load = record["machine"], record["machine"]["load"]
    lines = [
        f"{where['processor']}, {where['cores']} cores; load average {load[0]} before and {load[1]} after. "
        f"{', '.join(versions)}.",
        benchmark_table(rows),
    ]
    if "memory" in record:
        lines.append(memory_line(record["memory"]))
    return "\n\n".join(lines)


def in_document(page: str, record: dict[str, Any]) -> str:
    """The page with what is printed between its two marks. ValueError: it has no marks."""
    return between(page, "benchmark_evaluation", printed(record))
