"""Which paper lives in which file, and each number: what is expected, by whom, and the file of what was measured.

`python -m evidence.tables` writes all tables of README.md and docs/ into their pages, each between its two marks, from
this module, speed_tables.py, published.py and docs/results/*.json; docs/evidence.md is `python -m evidence.page`'s.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleeq import console

console.start()

from tabulate import tabulate

from scaleeq.reports.comparison_tables import comparison_table
from scaleeq.reports.costs import count_table
from scaleeq.zoo import Entry, read_table

from . import fresh_decoders, joint_toy, speed_tables, toy_detection
from .printed import put
from .published import (
    COUNTS,
    JOINT,
    JOINT_COLUMNS,
    JOINT_RECIPES,
    NO_CONFIG,
    PUBLISHED,
    Number,
    of_configs,
)

TWINS = ("", "+scale_equalizer")
NO_NUMBER = "no published number"
MIOU = "sem_seg/mIoU"
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"


@dataclass(frozen=True)
class Paper:
    """A paper, and the modules of this package that hold it."""

    title: str
    arxiv: str
    modules: str


PAPERS = (
    Paper("Scale equalization for multi-level feature fusion", "2402.01149", "equalization/"),
    Paper("UPerNet", "1807.10221", "decoders/uper.py"),
    Paper("FaPN", "2108.07058", "decoders/fapn.py, fusion/aligned.py, fusion/laterals.py"),
    Paper("ESeg", "2203.12683", "decoders/eseg.py, backbones/efficientnet.py"),
    Paper("GSTO", "2005.13363", "backbones/hrnet.py, layers/gate.py"),
    Paper("BiFPN (EfficientDet)", "1911.09070", "decoders/bifpn.py"),
    Paper("Panoptic feature pyramid networks", "1901.02446", "decoders/semantic_fpn.py"),
    Paper("HRNetV2", "1904.04514", "backbones/hrnet.py, decoders/fcn.py"),
    Paper("Pyramid pooling (PSPNet)", "1612.01105", "decoders/context.py, decoders/psp.py"),
    Paper("Atrous pooling (DeepLabV3)", "1706.05587", "decoders/context.py, decoders/aspp.py"),
    Paper("DeepLabV3+", "1802.02611", "decoders/sep_aspp.py"),
    Paper("Feature pyramid networks", "1612.03144", "decoders/fpn.py"),
    Paper("Fully convolutional networks", "1411.4038", "decoders/fcn.py"),
    Paper("PAD-Net", "1805.04409", "tasks/pad_net.py"),
    Paper("PCGrad", "2001.06782", "training/pcgrad.py"),
)

# Decoder -> context on the top level, pyramid, its laterals, its transfers, its combine, what the head combines.
DECODERS = {
    "FPN, Panoptic FPN's head": ("-", "fpn", "conv", "nearest", "sum", "sum of progressive branches"),
    "FaPN": ("-", "fapn", "select", "aligned", "sum", "sum of progressive branches"),
    "FaPN, real time": ("-", "fapn", "conv", "aligned_realtime", "sum", "sum of progressive branches"),
    "UPerNet": ("pyramid pooling", "fpn", "conv", "bilinear", "sum", "concat of levels"),
    "ESeg": ("pooled levels", "bifpn", "conv", "nearest, max", "fast_normalized", "softmax sum of levels"),
    "HRNetV2": ("-", "fuse layers", "conv", "bilinear", "sum", "concat of levels"),
    "GSTO-HRNet": ("-", "fuse layers", "gate, conv", "bilinear", "sum", "concat of levels"),
    "PSPNet": ("-", "-", "-", "bilinear", "-", "concat of level and pools"),
    "DeepLabV3": ("-", "-", "-", "-", "-", "concat of dilated convolutions and pool"),
    "DeepLabV3+": ("atrous pooling", "-", "-", "bilinear", "-", "concat of context and low level"),
    "FCN": ("-", "-", "-", "-", "-", "concat of level and convolutions"),
}

NUMBERS = (
    Number("quickstart", "mIoU, toy val", "60 or more", "this project's own check", "quickstart.json"),
    Number(
        "camvid/uper_lite0",
        "mIoU, CamVid val",
        "68 or more",
        "this project's own goal",
        "camvid_uper_lite0.json",
    ),
    Number(
        "camvid/uper_r18",
        "mIoU, CamVid val",
        "50 or more",
        "this project's own goal",
        "camvid_uper_r18.json",
    ),
    Number(
        "camvid/uper_r18+scale_equalizer",
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
    number
    for dataset in ("ade20k", "voc2012", "cityscapes")
    for number in of_configs(
        "mmsegmentation's model zoo",
        f"mIoU, {dataset} val",
        {
            f"{dataset}/uper_{backbone}{end}": MODEL_ZOO.get(f"{dataset}/uper_{backbone}{end}", NO_NUMBER)
            for backbone in ("swin_tiny", "twins_svt_small", "twins_pcpvt_small", "convnext_tiny", "r50")
            for end in TWINS
        },
    )
)


# Single-scale mIoU of mmsegmentation's model zoo for the other decoders on ResNet-50, at output stride 8.
DECODER_ZOO = {
    "cityscapes": {"psp": "78.55", "aspp": "79.32", "sep_aspp": "80.09", "fcn": "73.61"},
    "ade20k": {"psp": "42.48", "aspp": "42.66", "sep_aspp": "43.95", "fcn": "36.10"},
    "voc2012": {"psp": "77.29", "aspp": "77.68", "sep_aspp": "76.81", "fcn": "66.97"},
}
DECODER_RECIPES = tuple(
    number
    for dataset, published in DECODER_ZOO.items()
    for number in of_configs(
        "mmsegmentation's model zoo",
        f"mIoU, {dataset} val",
        {
            f"{dataset}/{head}_r50{end}": value if end == "" else NO_NUMBER
            for head, value in published.items()
            for end in TWINS
        },
    )
)
TOY = tuple(f"toy/{name}{end}" for name in ("fpn", "fapn", "bifpn", "gsto") for end in TWINS)


def recorded(name: str) -> str:
    """How evidence files of before call a config of this name."""
    return f"configs/{name.replace('+', '_')}.yaml"


def measured(number: Number) -> str:
    """The number in its evidence file, mIoU unless it is a count, or "not run"."""
    path = RESULTS / number.evidence
    if not number.evidence or not path.is_file():
        return "not run"
    record = json.loads(path.read_text())
    if number.evidence != COUNTS:
        return f"{record['sem_seg']['mIoU']:.1f}"
    count = next(count for count in record["configs"] if count["config"] == recorded(number.config))
    return f"{count['params'] / 1e6:.2f}" if number.what.startswith("parameters") else f"{count['macs'] / 1e9:.1f}"


def results_table() -> str:
    """Markdown: config, number, expected, measured, the weights of the table that can be had with it, evidence."""
    rows = []
    for n in NUMBERS:
        entry = read_table().get(n.config)
        weights = "-" if entry is None else f"{entry.measured[MIOU]:.1f}, {place_of(entry)}"
        expected = f"{n.expected} ({n.source})"
        rows.append((f"`{n.config}`", n.what, expected, measured(n), weights, f"`docs/results/{n.evidence}`"))
    headers = ("config", "number", "expected", "measured", "weights", "evidence")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def place_of(entry: Entry) -> str:
    """Where a name's weights are."""
    return f"[a file]({entry.weights})" if "://" in entry.weights else "with the package"


def recipes_table() -> str:
    """Markdown: a row for each recipe and its scale-equalized twin: published, measured, measured with equalizers."""
    rows = [
        (f"`{plain.config}`", plain.expected, measured(plain), measured(equalized))
        for plain, equalized in zip(RECIPES[::2], RECIPES[1::2], strict=True)
    ]
    headers = ("config", "published val mIoU", "measured", "with scale equalizers")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def decoders_table() -> str:
    """Markdown: each decoder as a point of the fusion space."""
    headers = ("decoder", "context", "pyramid", "laterals", "transfers", "combine", "the head's final Fusion")
    return tabulate([(name, *parts) for name, parts in DECODERS.items()], headers=headers, tablefmt="github")


def counts_table() -> str:
    """Markdown: what tools/benchmark.py --count printed for the configs of Cityscapes and of the toy scenes."""
    records = json.loads((RESULTS / COUNTS).read_text())["configs"]
    shown = [record for record in records if record["config"].split("/")[1] in ("cityscapes", "toy")]
    return count_table(shown)


def published_table() -> str:
    """Markdown: config, number, published, measured, paper."""
    rows = [
        (n.config if n.config == NO_CONFIG else f"`{n.config}`", n.what, n.expected, measured(n), n.source)
        for n in PUBLISHED
    ]
    headers = ("config", "number", "published", "measured", "arXiv")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def decoder_recipes_table() -> str:
    """Markdown: ResNet-50 decoders: published and measured mIoU, and measured with equalizers."""
    rows = [
        (f"`{plain.config}`", plain.expected, measured(plain), measured(equalized))
        for plain, equalized in zip(DECODER_RECIPES[::2], DECODER_RECIPES[1::2], strict=True)
    ]
    headers = ("config", "published val mIoU", "measured", "with scale equalizers")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def joint_recipes_table(dataset: str) -> str:
    """Markdown: models of several tasks on a set: published ones, then ours, "not run" without a file of results."""
    columns = JOINT_COLUMNS[dataset]
    rows = [(n.model, *(n.figures[key] for key in columns), n.source) for n in JOINT if n.dataset == dataset]
    for name in (f"{dataset}/{recipe}{end}" for recipe in JOINT_RECIPES for end in TWINS):
        path = RESULTS / f"{re.sub('[/+]', '_', name)}.json"
        result = json.loads(path.read_text()) if path.is_file() else {}
        rows.append((f"`{name}`", *(_joint_figure(result, key) for key in columns), "this project"))
    return tabulate(rows, headers=("model", *columns, "source"), tablefmt="github", disable_numparse=True)


def nyud_table() -> str:
    """Markdown: four tasks on NYUD-v2."""
    return joint_recipes_table("nyud_mt")


def pascal_table() -> str:
    """Markdown: five tasks on PASCAL-Context."""
    return joint_recipes_table("pascal_mt")


def _joint_figure(result: dict, key: str) -> str:
    task, metric = key.split("/")
    return f"{result[task][metric]:.4g}" if metric in result.get(task, {}) else "not run"


def toy_table() -> str:
    """Markdown: the toy comparison: mIoU, parameters, multiply-adds, a step's time as a ratio to the first's."""
    path = RESULTS / "toy.json"
    runs = json.loads(path.read_text())["configs"] if path.is_file() else {}
    rows = [(f"`{config}`", *toy_row(runs.get(config))) for config in TOY]
    headers = ("config", "mIoU", "params M", "multiply-adds G", "CPU time of a training step / the first's")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def toy_row(run: dict[str, Any] | None) -> tuple[str, ...]:
    """mIoU in percent, parameters, multiply-adds of an image, median ratio of a step's CPU time; or "not run"."""
    if run is None:
        return ("not run",) * 4
    return (
        f"{run['mIoU']:.1f}",
        f"{run['params'] / 1e6:.2f}",
        f"{run['macs'] / 1e9:.2f}",
        f"{run['training_cpu_ratio'][1]:.2f}",
    )


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
                rows.append((f"`{number.config}`", fusion, branch, *stds))
    headers = ("run", "fusion", "branch", "std, first", "std, last", "equalized, first", "equalized, last")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def fresh_decoders_table() -> str:
    """Markdown: the scales of decoders that were never trained, against an earlier measurement."""
    return fresh_decoders.table(json.loads((RESULTS / "scales_5_4.json").read_text()))


def calibration_cost_table() -> str:
    """Markdown: what evidence.benchmark_calibration printed, as a ratio to a plain forward in the same run."""
    runs = json.loads((RESULTS / "calibration_cost.json").read_text())
    rows = [(f"`{run['command'].partition('.py ')[2]}`", run["passes"], f"{run['ratio']:.2f}") for run in runs]
    headers = ("benchmark_calibration.py", "passes", "an image and pass / a plain forward")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def equalize_cost_table() -> str:
    """Markdown: what evidence.benchmark_equalize printed, as ratios to the plain convolution in the same run."""
    rows = []
    for run in json.loads((RESULTS / "equalize_cost.json").read_text()):
        command = f"`{run['command'].partition('.py ')[2]}`"
        for name, ratios in run.items():
            if isinstance(ratios, dict) and "forward" in ratios:
                rows.append((command, name, f"{ratios['forward']:.2f}", f"{ratios['forward_and_backward']:.2f}"))
    headers = ("benchmark_equalize.py", "implementation", "forward / plain", "forward and backward / plain")
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def detection_cost_table() -> str:
    """Markdown: what evidence.benchmark_detection measured, ratios of CPU time to Detectron2's FPN in the same run."""
    path = RESULTS / "detection_cost.json"
    if not path.is_file():
        return "not run"
    run = json.loads(path.read_text())
    titles = {"step_cpu": "training step", "forward_cpu": "forward of backbone and pyramid"}
    kinds = [kind for kind in titles if kind in run]
    rows = []
    for name, count in run["parameters"].items():
        cells = []
        for kind in kinds:
            low, middle, high = run[kind][name]["ratio_quartiles"]
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
        rows.append((name, f"{count / 1e6:.3f}", *cells))
    headers = ("Faster R-CNN R50 on", "parameters, M", *(titles[kind] for kind in kinds))
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def arms_table() -> str:
    """Markdown: the arms of an experiment on toy scenes, as tools/compare.py compared them."""
    return comparison_table(json.loads((RESULTS / "arms_toy_sgd.json").read_text()))


def joint_tables() -> str:
    """Markdown: four tasks in one model or in four, with and without equalizers, and what a step of them costs."""
    if not joint_toy.RESULT.is_file():
        return "not run"
    return joint_toy.tables(json.loads(joint_toy.RESULT.read_text()))


def detectors_table() -> str:
    """Markdown: torchvision's Mask R-CNN on toy scenes with FPN and FaPN, plain and equalized."""
    if not toy_detection.RESULT.is_file():
        return "not run"
    return toy_detection.detectors_table(json.loads(toy_detection.RESULT.read_text()))


# Page -> the tables that it has.
TABLES = {
    "README.md": (papers_table, results_table),
    "docs/scale_equalizers.md": (scales_table, fresh_decoders_table, calibration_cost_table),
    "docs/any_model.md": (equalize_cost_table,),
    "docs/recipes.md": (recipes_table, decoder_recipes_table, nyud_table, pascal_table),
    "docs/fusions.md": (decoders_table, counts_table, published_table, toy_table),
    "docs/compare.md": (arms_table,),
    "docs/joint_tasks.md": (joint_tables,),
    "docs/detection.md": (detection_cost_table,),
    "docs/detection_torchvision.md": (detectors_table,),
    **speed_tables.TABLES,
}


def main() -> None:
    console.parser(__doc__).parse_args()
    for page, printed in TABLES.items():
        for table in printed:
            put(ROOT / page, table.__name__, table())


if __name__ == "__main__":
    console.run(main)
