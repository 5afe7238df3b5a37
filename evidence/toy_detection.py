"""docs/results/toy_detection.json from a comparison of detectors' pyramids, and the table that its document has of it.

    scaleeq compare configs/ablations/toy_detection.yaml --seeds 0 1 2 --output output/toy_detection
    python -m evidence.toy_detection output/toy_detection --code COMMIT [--note TEXT]

The file keeps what comparison.json says but for curves, losses and paths. docs/detection_torchvision.md gets the table
between its two marks.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

from scaleeq import console
from scaleeq.files import write_json
from scaleeq.markdown import table
from scaleeq.reports.comparison_tables import heading, interval, number, sections
from scaleeq.reports.html import Content

from .collected import collected, mean_and_sd
from .printed import put

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "results" / "toy_detection.json"
PAGE = ROOT / "docs" / "detection_torchvision.md"


def detectors_table(content: Content) -> str:
    """Markdown: a row a pyramid: each metric's mean over seeds, its paired difference, and what a training takes."""
    parts = sections(content)
    rows = []
    for name, variant in content["variants"].items():
        cells = []
        for part in parts:
            of = part["variants"][name]
            cells += [mean_and_sd(of["mean"], of["sd"]), _difference(part["comparisons"].get(name))]
        seconds = [run["seconds"] for run in variant["runs"].values()]
        rows.append((name.replace("_", ", "), *cells, f"{median(seconds):.0f}" if seconds else "not run"))
    headers = [text for part in parts for text in (heading(part), "difference (95 % interval)")]
    return table(rows, ("pyramid", *headers, "s, a training"))


def _difference(compared: Content | None) -> str:
    if compared is None:
        return "-"
    if not compared["n"]:
        return "not run"
    return f"to {compared['baseline']}: {number(compared['mean'], sign=True)} ({interval(compared)})"


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("output", type=Path, help="of the comparison: holds comparison.json")
    parser.add_argument("--code", required=True, help="the commit that trained")
    parser.add_argument("--note", default="", help="what else should be known of the runs")
    arguments = parser.parse_args()
    content = collected(arguments.output, code=arguments.code, note=arguments.note)
    write_json(RESULT, content)
    put(PAGE, "detectors_table", detectors_table(content))
    print(detectors_table(content))


if __name__ == "__main__":
    console.run(main)
