"""The names of models, and what is known of each: whether it has weights, and what was measured with them.

    scaleeq models
    scaleeq models "*uper*"
    scaleeq models --json

A name without weights is trained by `scaleeq train NAME`; scaleeq.load_model(NAME, weights=...) takes its checkpoint.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from scaleeq import console

STOPPED = "stopped"


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help='such as "*uper*"; default all')
    parser.add_argument("--json", action="store_true", help="one JSON object per name and line")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    """ValueError: no name matches."""
    from scaleeq.zoo import list_models, read_table

    names, table = list_models(arguments.pattern), read_table()
    if not names:
        raise ValueError(
            f"no model's name matches {arguments.pattern!r}; scaleeq models lists all {len(list_models())}"
        )
    width = max(map(len, names))
    for name in names:
        entry = table.get(name)
        if arguments.json:
            known = entry._asdict() if entry else {"weights": "", "measured": {}}
            print(json.dumps({"name": name, **known}))
            continue
        measured = ", ".join(f"{metric} {value:g}" for metric, value in entry.measured.items()) if entry else ""
        print(f"{name:{width}}  {measured or 'no weights'}")
