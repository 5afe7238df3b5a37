"""A comparison's comparison.json as an evidence file, and its tables between two marks of a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scaleeq.reports.comparison_tables import sections
from scaleeq.reports.html import Content

OF_RUNS = ("value", "seconds", "peak_mib")
END = "\n<!-- up to here -->"


def begin(module: str) -> str:
    """The mark before what `python -m evidence.<module>` prints."""
    return f"<!-- printed by evidence.{module} -->\n"


def kept(comparison: Content) -> dict[str, Any]:
    """A comparison's content without what is long, or of one machine; its own runs are changed."""
    content = dict(comparison)
    for section in sections(content):
        for variant in section["variants"].values():
            variant["runs"] = {
                seed: {key: run[key] for key in OF_RUNS if key in run} for seed, run in variant["runs"].items()
            }
    return content


def collected(output: Path, *, code: str, note: str) -> dict[str, Any]:
    """What an evidence file says of the comparison in this folder.

    code: the commit that trained.
    """
    content = kept(json.loads((output / "comparison.json").read_text()))
    seeds = " ".join(map(str, content["seeds"]))
    content["command"] = f"scaleeq compare {content['file']} --seeds {seeds}"
    return {**content, "code": f"commit {code}", "note": note}


def document(page: Path, module: str, tables: str) -> str:
    """The page with these tables between the module's marks.

    ValueError: it has not both marks.
    """
    start = begin(module)
    before, found, rest = page.read_text().partition(start)
    _, end, after = rest.partition(END)
    if not found or not end:
        raise ValueError(f"{page.name} has not both marks, {start.strip()} and {END.strip()}")
    return f"{before}{start}{tables}{END}{after}"
