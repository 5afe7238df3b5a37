"""Which paper lives in which file, and each number: what is expected, by whom, and the file of what was measured.

`python -m scaleeq.papers` prints the tables of README.md, docs/scale_equalizers.md and docs/recipes.md from this module
and from docs/results/*.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@dataclass(frozen=True)
class Paper:
    """A paper, and the modules of this package that hold it."""

    title: str
    arxiv: str
    modules: str


@dataclass(frozen=True)
class Number:
    """One result: `expected` with its source, and the evidence file in docs/results ("" or absent: not run)."""

    config: str
    what: str
    expected: str
    source: str
    evidence: str


PAPERS = (
    Paper("Scale equalization for multi-level feature fusion", "2402.01149", "fusion/equalizer.py, statistics/"),
    Paper("UPerNet", "1807.10221", "heads/uper.py"),
    Paper("Pyramid pooling (PSPNet)", "1612.01105", "fusion/pooling.py"),
    Paper("Feature pyramid networks", "1612.03144", "pyramids/fpn.py"),
    Paper("Fully convolutional networks", "1411.4038", "heads/fcn.py"),
)

NUMBERS = (
    Number("configs/quickstart.yaml", "mIoU, toy val", "60 or more", "this project's own check", "quickstart.json"),
    Number(
        "configs/camvid/uper_r18.yaml",
        "mIoU, CamVid val",
        "50 or more",
        "this project's own goal",
        "camvid_uper_r18.json",
    ),
    Number(
        "configs/camvid/uper_r18_scale_equalizer.yaml",
        "mIoU, CamVid val",
        "50 or more",
        "this project's own goal",
        "camvid_uper_r18_scale_equalizer.json",
    ),
)

# Single-scale mIoU of mmsegmentation 1.2.2's model zoo (metafile.yaml), for the recipes that it has.
MODEL_ZOO = {
    "ade20k/uper_swin_tiny": "44.41",
    "ade20k/uper_twins_svt_small": "46.08",
    "ade20k/uper_twins_pcpvt_small": "46.04",
    "ade20k/uper_convnext_tiny": "46.11",
    "ade20k/uper_r50": "42.05",
    "voc2012/uper_r50": "75.92",
    "cityscapes/uper_r50": "78.19",
}
RECIPES = tuple(
    Number(
        f"configs/{dataset}/uper_{backbone}{equalizer}.yaml",
        f"mIoU, {dataset} val",
        MODEL_ZOO.get(f"{dataset}/uper_{backbone}{equalizer}", "no published number"),
        "mmsegmentation's model zoo",
        f"{dataset}_uper_{backbone}{equalizer}.json",
    )
    for dataset in ("ade20k", "voc2012", "cityscapes")
    for backbone in ("swin_tiny", "twins_svt_small", "twins_pcpvt_small", "convnext_tiny", "r50")
    for equalizer in ("", "_scale_equalizer")
)


def measured(number: Number) -> str:
    """The mIoU in a number's evidence file, or "not run"."""
    path = RESULTS / number.evidence
    if not number.evidence or not path.is_file():
        return "not run"
    return f"{json.loads(path.read_text())['sem_seg']['mIoU']:.1f}"


def results_table() -> str:
    """Markdown: config, number, expected, measured, evidence."""
    rows = [
        (f"`{n.config}`", n.what, f"{n.expected} ({n.source})", measured(n), f"`docs/results/{n.evidence}`")
        for n in NUMBERS
    ]
    return tabulate(rows, headers=("config", "number", "expected", "measured", "evidence"), tablefmt="github")


def recipes_table() -> str:
    """Markdown: a row for each recipe and its scale-equalized twin: published, measured, measured with equalizers."""
    rows = [
        (f"`{plain.config}`", plain.expected, measured(plain), measured(equalized))
        for plain, equalized in zip(RECIPES[::2], RECIPES[1::2], strict=True)
    ]
    headers = ("config", "published val mIoU", "measured", "with scale equalizers")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def papers_table() -> str:
    """Markdown: paper, arXiv number, where it lives."""
    rows = [(p.title, f"[{p.arxiv}](https://arxiv.org/abs/{p.arxiv})", f"`{p.modules}`") for p in PAPERS]
    return tabulate(rows, headers=("paper", "arXiv", "in projects/ScaleEq/scaleeq/"), tablefmt="github")


def scales_table() -> str:
    """Markdown: the std of every branch of every run that left evidence, in its first and its last iteration."""
    rows = []
    for number in NUMBERS:
        path = RESULTS / number.evidence
        scales = json.loads(path.read_text())["scales"] if path.is_file() else {}
        first, last = (scales.get(key, {}).get("fusions", {}) for key in ("at_start", "at_end"))
        for fusion in first:
            for branch, start in first[fusion]["branches"].items():
                records = (start, last[fusion]["branches"][branch])
                stds = [f"{r[key]:.3f}" if key in r else "-" for key in ("std", "std_equalized") for r in records]
                rows.append((f"`{Path(number.config).stem}`", fusion, branch, *stds))
    headers = ("run", "fusion", "branch", "std, first", "std, last", "equalized, first", "equalized, last")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def calibration_cost_table() -> str:
    """Markdown: what tools/benchmark_calibration.py printed, as a ratio to a plain forward in the same run."""
    runs = json.loads((RESULTS / "calibration_cost.json").read_text())
    rows = [(f"`{run['command'].partition('.py ')[2]}`", run["passes"], f"{run['ratio']:.2f}") for run in runs]
    headers = ("benchmark_calibration.py", "passes", "an image and pass / a plain forward")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    tables = (papers_table, results_table, scales_table, calibration_cost_table, recipes_table)
    print(*(table() for table in tables), sep="\n\n")
