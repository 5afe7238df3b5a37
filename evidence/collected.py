"""A comparison's comparison.json as an evidence file, and what its tables have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scaleeq.reports.comparison_tables import number, sections
from scaleeq.reports.html import Content

OF_RUNS = ("value", "seconds", "peak_mib")


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


def mean_and_sd(mean: float | None, sd: float | None, digits: int = 1) -> str:
    """ "61.0 ± 1.0" over seeds; of one seed without its scatter; "not run" of none."""
    if mean is None:
        return "not run"
    return number(mean, digits) if sd is None else f"{number(mean, digits)} ± {number(sd, digits)}"
