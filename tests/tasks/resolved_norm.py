"""What NORM "SyncBN" stands for in each of two processes; run by test_norms.py with a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from scaleeq.engine import comm, launch
from scaleeq.tasks.configured import resolve_norm


def write_norm(folder: str) -> None:
    norm = resolve_norm("SyncBN")
    assert norm is not None
    (Path(folder) / f"{comm.get_rank()}").write_text(type(norm(8)).__name__)


if __name__ == "__main__":
    launch(write_norm, 2, dist_url=f"file://{sys.argv[1]}/store", args=(sys.argv[1],))
