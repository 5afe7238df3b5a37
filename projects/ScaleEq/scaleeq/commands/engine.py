"""Which training engine runs here: `python -m scaleeq.engine` as a verb."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from scaleeq.engine.__main__ import parser, run

__all__ = ["STOPPED", "parse", "parser", "run"]

STOPPED = "stopped"


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    return parser.parse_args(argv)
