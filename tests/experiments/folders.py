"""Folders of runs as training leaves them, with numbers of the test's choice."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from scaleeq.experiments.execute import run_folder
from scaleeq.experiments.plan import Plan, read_plan

BASE = Path(__file__).parents[2] / "configs" / "toy" / "fpn.yaml"
VARIANTS = {"off": {}, "equalized": {"MODEL.SCALE_EQUALIZER.ENABLED": True}, "wide": {"MODEL.PYRAMID.CHANNELS": 96}}
SEEDS = [0, 1, 2, 3]


def write_plan(folder: Path, **changes) -> Plan:
    content = {"base": str(BASE), "seeds": SEEDS, "baseline": "off", "variants": VARIANTS, **changes}
    path = folder / "example.yaml"
    path.write_text("# Question: <is> it & so?\n" + yaml.safe_dump(content, sort_keys=False))
    return read_plan(path)


def write_run(folder: Path, miou: float, *, loss: float = 1.0) -> None:
    write_values(folder, {"sem_seg/mIoU": miou}, loss=loss)


def write_values(folder: Path, values: dict[str, float], *, loss: float = 1.0) -> None:
    """values: metric -> that of the last evaluation; the one before had half of it."""
    folder.mkdir(parents=True)
    lines = [
        {"iteration": 19, "total_loss": 2 * loss},
        {"iteration": 19, **{metric: value / 2 for metric, value in values.items()}},
        {"iteration": 39, "total_loss": loss, **values},
    ]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.json").write_text(json.dumps({"seconds": 3.0, "peak_mib": 500, "engine": "standalone 0.6"}))


def write_comparison(folder: Path, values: dict[str, list[float | None]], **changes) -> tuple[Plan, Path]:
    """values: variant -> mIoU by seed; None: that run is missing."""
    folder.mkdir(exist_ok=True)
    plan, output = write_plan(folder, **changes), folder / "output"
    for variant in plan.variants:
        for seed, value in zip(plan.seeds, values[variant.name], strict=True):
            if value is not None:
                write_run(run_folder(output, variant, seed), value)
    return plan, output
