"""docs/evidence.md, printed from evidence/page.md, docs/results/probes.jsonl and study_*.json.

    python -m evidence.page                 writes the page; prints README's sentences
    python -m evidence.page --figures       draws its figures, docs/images/*.{png,pdf}, too

In the text, {{gain CELL ARM [FACTOR]}} is what "equalized" has over that arm, {{trained PLAN PATTERN ...}} what
variants of such names have, trained end to end, over what they are compared with, {{trainings PLAN}} how many of a
plan's are finished ("48 of 144"), and {{table NAME ...}} a table. Every gain is a difference that is quoted: table
"quoted" has them all, with Holm's adjustment over them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from scaleeq import console

console.start()

from scaleeq.experiments.statistics import Difference
from scaleeq.files import write_text
from scaleeq.reports.scales_verdict import LARGE_SHARE, SMALL_SHARE

from . import probe_figures, study, study_figures
from . import probe_tables as tables
from .fusions_cost import cost_tables
from .probe import RESULT
from .probes.results import Results, interval
from .probes.study import read
from .record_run import full_length_table

DOCS = Path(__file__).parents[1] / "docs"
TEXT, PAGE, FIGURES = Path(__file__).with_suffix(".md"), DOCS / "evidence.md", DOCS / "images"
SOURCES = {"natural": "natural scales", "two": "two networks", "depth": "depth in mm"}  # of cells without factors
LINE = 115  # characters of a line of README
PERCENTS = {"large": f"{100 * LARGE_SHARE:.0f} %", "small": f"{100 * SMALL_SHARE:.0f} %"}  # of the energy
PLACE = re.compile(r"\{\{([^{}]+)\}\}")


def page(results: Results, text: str) -> str:
    """text: with its places -> filled in."""
    return PLACE.sub(lambda found: filled(results, found[1].split(), text), text)


def filled(results: Results, words: list[str], text: str) -> str:
    """What stands in a place. KeyError: no such thing."""
    about, what = results.about, words[0]
    if what == "gain":
        return interval(gain(results, *words[1:]))
    if what == "trained":
        return interval(study.gained(*words[1:]))
    if what == "table":
        return table(results, words[1:], text)
    if what == "trainings":
        return f"{study.counts()[words[1]]} of {len(study.plan_of(words[1]).runs())}"
    batch, (first, last) = about["batch"], about["held_out_images"]
    found = PERCENTS | {
        "between": tables.gains_between(results, 100 * SMALL_SHARE, 100 * LARGE_SHARE),
        "count": f"{results.count():,}",
        "command": about["command"],
        "batch": f"{batch['images']} images with {batch['pixels_of_each']} random pixels each",
        "held_out": f"{first} to {last}",
        "pixels": str(about["pixels_scored_an_image"]["val"]),
    }
    return found[what]


def gain(results: Results, cell: str, arm: str, dose: str = "1") -> Difference:
    """Of "equalized" over an arm."""
    return results.gain(cell, arm, float(dose))


def quoted(results: Results, text: str) -> dict[str, Difference]:
    """What a text quotes: its name -> the difference."""
    found = {}
    for place in PLACE.findall(text):
        what, *words = place.split()
        if what == "gain":
            cell, arm, dose = (*words, "1")[:3]
            name = cell.partition("/")[0]
            scale = SOURCES.get(name, f"{name} x {dose}")
            edge = " (edge)" if results.gain_is_at_the_edge(cell, arm, float(dose)) else ""
            found[f"{tables.titled(cell)}, {scale}: equalized - {arm}{edge}"] = gain(results, *words)
        elif what == "trained":
            of = " and ".join(map(of_variants, words[1:]))
            found[f"end to end, {words[0]}, {of}: equalized - off"] = study.gained(*words)
    return found


def of_variants(pattern: str) -> str:
    """ "psp_*_x100_equalized" -> "psp x100", "*" -> "all"."""
    words = pattern.replace("*", "").removesuffix(study.EQUALIZED).split("_")
    return " ".join(filter(None, words)) or "all"


def table(results: Results, words: list[str], text: str) -> str:
    """A table by its name."""
    name, *more = words
    if name == "dose":
        return tables.dose_table(results, *more)
    if name == "quoted":
        return tables.quoted_table(quoted(results, text))
    of_results: dict[str, Callable[..., str]] = {
        "branches": tables.branches_table, "natural": tables.natural_table, "energy": tables.energy_table,
    }  # fmt: skip
    if name in of_results:
        return of_results[name](results, *more)
    fixed = {
        "arms": tables.arms_table, "designs": tables.designs_table, "cost": cost_tables,
        "full_length": full_length_table,
    }  # fmt: skip
    return fixed[name]() if name in fixed else study.tables()[name]


def summary(results: Results) -> str:
    """What README says of it."""
    gained = results.gain("res5/linear/SGD", "off", 100.0).mean or 0.0
    common = interval(results.gain("natural/linear/SGD", "common"))
    trained = interval(study.gained("decoders", "*"))
    dosed = interval(study.gained("doses", "semfpn_*_x100_equalized", "fcn_*_x100_equalized"))
    return textwrap.fill(
        "What it is worth, honestly: a fusion becomes independent of its sources' scales, at no cost once folded. "
        f"With one source 100 times too large that gains {gained:.1f} points of mIoU in a linear classifier of frozen, "
        f"pretrained features, and {dosed} in semantic FPN and FCN trained end to end. At the scales that the backbone "
        f"has, one common factor for all gains no less (difference {common}), and five decoders gain nothing "
        f"({trained}). Equalize where one source holds over {PERCENTS['large']} of the energy C std^2, or under "
        f"{PERCENTS['small']} though it should count, or in sums without norms, not in pyramid pooling: "
        "[evidence](docs/evidence.md).",
        width=LINE,
    )


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("--figures", action="store_true", help="draw them as well")
    arguments = parser.parse_args()
    lines = read(RESULT)
    if len(lines) < 2:
        raise ValueError(f"{RESULT} has no finished part: python -m evidence.probe run")
    results = Results(lines)
    if arguments.figures:
        figures = probe_figures.drawn(results) | study_figures.drawn()
        print(*probe_figures.write_figures(figures, FIGURES), sep="\n")
    write_text(PAGE, page(results, TEXT.read_text()))
    print(summary(results))


if __name__ == "__main__":
    console.run(main)
