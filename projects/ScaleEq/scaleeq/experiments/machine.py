"""How many runs fit on this machine at once: cores, free memory, and what one run takes.

Memory of a run is the proportional set size of its processes (Linux's /proc: shared pages count once), or the drop of
the GPU's free memory while it ran alone. The part for GPUs has been tested on recorded output alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SHARE = 0.9  # of the free memory that may be used
MIB = 2**20


def cores() -> int:
    """Of those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def more_runs(free_mib: float, one_run_mib: float) -> int:
    """How many further runs fit into the memory that is free while one runs."""
    return int(SHARE * free_mib / max(one_run_mib, 1.0))


def tree_mib(pid: int) -> float | None:
    """Memory of a process and all its descendants; None where the system does not say, or it is gone."""
    total, waiting = None, [pid]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
            for thread in (folder / "task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
        except OSError:  # it ended meanwhile; or there is no /proc
            continue
        kib = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
        total = (total or 0.0) + kib / 1024
    return total


def free_mib(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Memory that can still be used: the machine's, within the limit of this process's container."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, (int(limit) - int(used)) / MIB)


def gpus_free_mib() -> list[float]:
    """Free memory of each GPU that runs may use, by nvidia-smi; [] without one."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    query = [program, "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return []
    return parse_gpus(result.stdout, os.environ.get("CUDA_VISIBLE_DEVICES")) if result.returncode == 0 else []


def parse_gpus(output: str, visible: str | None) -> list[float]:
    """output: lines "index, free MiB". visible: CUDA_VISIBLE_DEVICES; names that are no indices are not told apart."""
    free = dict(line.split(",") for line in output.splitlines() if line.count(",") == 1)
    wanted = None if visible is None else [word.strip() for word in visible.split(",")]
    if wanted and all(word.isdigit() for word in wanted):
        return [float(free[word]) for word in wanted if word in free]
    return [] if wanted == [""] else [float(value) for value in free.values()]
