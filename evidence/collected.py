"""A comparison's comparison.json as an evidence file, and what such files and their tables have in common."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from scaleeq.reports.comparison_tables import number, sections
from scaleeq.reports.html import Content

FILES = ("--output", "--json", "--document", "--peer-python")  # options whose value is of one machine
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


def command_line(program: str) -> str:
    """This process's, as an evidence file has it: without the names of files. program: of evidence."""
    words, kept_words = iter(sys.argv[1:]), []
    for word in words:
        option, is_whole, _ = word.partition("=")
        if option not in FILES:
            kept_words.append(word)
        elif not is_whole:
            next(words, None)
    return shlex.join(["python", "-m", f"evidence.{program}", *kept_words])


def mean_and_sd(mean: float | None, sd: float | None, digits: int = 1) -> str:
    """ "61.0 ± 1.0" over seeds; of one seed without its scatter; "not run" of none."""
    if mean is None:
        return "not run"
    return number(mean, digits) if sd is None else f"{number(mean, digits)} ± {number(sd, digits)}"
