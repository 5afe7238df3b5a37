"""Scales of decoders that were never trained, against an earlier, independent measurement of the same: its numbers are
REFERENCE, on CamVid's images, with fresh backbones, batch norms on batch statistics and cross entropy. Of its draw of
images, weights and batch size nothing more is known, so a difference may be that of two draws: several are averaged.

    python -m evidence.fresh_decoders docs/results/scales_5_4.json FOLDER [FOLDER ...]

collects the scales.json of folders that tools/analyze_scales.py wrote for the configs camvid/scales_*.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

from scaleeq.files import write_json
from scaleeq.reports.scales_verdict import ratios

Ratios = tuple[float, ...]


class Reference(NamedTuple):
    """Of one fusion: each branch's number over the first branch's."""

    title: str
    config: str
    fusion: str
    std: Ratios
    gradient: Ratios
    gradient_equalized: Ratios


UPER, CONTEXT = "sem_seg_head.fusion", "sem_seg_head.context"
REFERENCE = (
    Reference(
        "UPer fusion, Swin-T 448", "uper_swin_tiny", UPER, (0.930, 0.912, 0.921), (0.96, 0.87, 0.99), (1.04, 0.97, 1.10)
    ),
    Reference(
        "UPer fusion, ConvNeXt-T 320",
        "uper_convnext_tiny",
        UPER,
        (0.899, 0.870, 0.864),
        (0.92, 0.83, 0.91),
        (1.02, 0.96, 1.09),
    ),
    Reference(
        "UPer fusion, ResNet-50 320", "uper_r50", UPER, (0.868, 0.832, 0.791), (0.93, 0.83, 0.81), (1.07, 1.00, 1.04)
    ),
    Reference(
        "UPer context, Swin-T",
        "uper_swin_tiny",
        CONTEXT,
        (0.564, 0.496, 0.508, 0.527),
        (0.54, 0.61, 0.64, 0.63),
        (0.98, 1.23, 1.25, 1.19),
    ),
    Reference(
        "UPer context, ConvNeXt-T",
        "uper_convnext_tiny",
        CONTEXT,
        (0.558, 0.477, 0.491, 0.507),
        (0.64, 0.64, 0.64, 0.63),
        (1.06, 1.29, 1.29, 1.22),
    ),
    Reference(
        "UPer context, ResNet-50",
        "uper_r50",
        CONTEXT,
        (0.919, 0.809, 0.797, 0.841),
        (1.29, 1.32, 1.30, 1.17),
        (1.39, 1.63, 1.64, 1.40),
    ),
    Reference(
        "PSP, ResNet-50-d8",
        "psp_r50",
        UPER,
        (0.907, 0.808, 0.785, 0.844),
        (1.08, 1.40, 1.46, 1.48),
        (1.19, 1.73, 1.87, 1.76),
    ),
    Reference(
        "ASPP, ResNet-50-d8",
        "aspp_r50",
        UPER,
        (1.08, 1.06, 1.07, 1.08),
        (0.93, 0.76, 0.81, 0.74),
        (0.86, 0.71, 0.75, 0.69),
    ),
    Reference("SepASPP, low level", "sep_aspp_r50", UPER, (1.24,), (0.94,), (0.91,)),
    Reference("FCN", "fcn_r50", "sem_seg_head.body", (0.98,), (0.88,), (0.90,)),
)
COLUMNS = {"std": 0.03, "gradient": 0.15, "gradient_equalized": 0.15}  # what is compared, and how near it should be


def collect(folders: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Config -> for each of its runs, fusion -> the three columns; of folders of tools/analyze_scales.py."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for folder in folders:
        content = json.loads((folder / "scales.json").read_text())
        config = Path(content["about"]["config"]).stem.removeprefix("scales_")
        fusions = {}
        for reference in REFERENCE:
            if reference.config == config:
                fusion = content["fusions"][reference.fusion]
                fusions[reference.fusion] = {
                    "std": _rounded(ratios(fusion["raw"], "std")),
                    "gradient": _rounded(ratios(fusion["raw"], "weight_gradient")),
                    "gradient_equalized": _rounded(ratios(fusion["equalized"], "weight_gradient")),
                }
        runs.setdefault(config, []).append({"about": content["about"], "fusions": fusions})
    return runs


def table(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown: a row for each fusion and number: reference, mean over our draws, and the largest difference."""
    rows = []
    for reference in REFERENCE:
        draws = [run["fusions"][reference.fusion] for run in runs.get(reference.config, [])]
        for column, tolerance in COLUMNS.items():
            expected: Ratios = getattr(reference, column)
            row = [reference.title if column == "std" else "", column.replace("_", ", "), _text(expected)]
            if draws:
                found = measured(draws, column)
                off = max(abs(ours / theirs - 1) for ours, theirs in zip(found, expected, strict=True))
                mark = "" if off <= tolerance else f" (over {100 * tolerance:.0f} %)"
                row += [_text(found), str(len(draws)), f"{100 * off:.0f} %{mark}"]
            else:
                row += ["not run", "0", "-"]
            rows.append(row)
    headers = ("fusion", "over the first branch's", "reference", "measured", "draws", "largest difference")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def measured(draws: Sequence[Mapping[str, Sequence[float]]], column: str) -> list[float]:
    """The mean over draws, of each branch but the first."""
    values = [draw[column][1:] for draw in draws]
    return [sum(branch) / len(branch) for branch in zip(*values, strict=True)]


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def _text(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    write_json(sys.argv[1], collect([Path(folder) for folder in sys.argv[2:]]))
    print(table(json.loads(Path(sys.argv[1]).read_text())))
