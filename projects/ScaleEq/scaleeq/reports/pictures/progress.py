"""How far a command is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

PERIOD = 10.0  # seconds between two lines

Item = TypeVar("Item")


def watched(items: Iterable[Item], total: int, *, unit: str) -> Iterator[Item]:
    """The items, as they come, while stderr is told how many there were and what time is left.

    total: how many there will be; 0: nobody knows. unit: what they are, in the plural.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total or None, unit=unit)
        return
    start = told = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - told < PERIOD or done == total:
            continue
        told, each = now, (now - start) / done
        of_all = f" of {total}" if total else ""
        left = f", {each * (total - done):.0f} s left" if total else ""
        print(f"{done}{of_all} {unit}, {each:.2f} s each{left}", file=sys.stderr, flush=True)
