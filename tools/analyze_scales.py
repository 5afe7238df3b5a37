#!/usr/bin/env python3
"""Show the scales of a model's branches, and what scale equalizers would do to them, without training.

    python tools/analyze_scales.py --config-file configs/camvid/uper_r18.yaml --output output/scales
    python tools/analyze_scales.py --config-file C --weights model_final.pth --batches 8 SOLVER.IMS_PER_BATCH 4
    python tools/analyze_scales.py --theory --output output/theory

Writes scales.json, scales.html (one file, to open in any browser) and an SVG for each fusion; prints a line for each.
Nothing else is changed: the equalized model is a copy. Data sets are found under $DETECTRON2_DATASETS.
--theory needs no model, and a checkout (it runs evidence.theory): figure_3.png, upsampled_variance.png and theory.json,
what upsampling does to random maps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from scaleeq import console

console.start()

from scaleeq.engine import load_config, setup_logger
from scaleeq.reports.scales_analysis import analyze_scales
from scaleeq.reports.scales_page import write_report
from scaleeq.training import check_labels, check_model, check_weights, choose_device

CHECKOUT = Path(__file__).resolve().parents[1]


def write_theory(output: Path) -> int:
    """The exit code of evidence.theory, which is in a checkout alone."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "evidence.theory", "--output", str(output.absolute())]
    return subprocess.run(command, cwd=CHECKOUT, env=environment).returncode


def main() -> None:
    parser = console.parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file")
    what.add_argument("--theory", action="store_true", help="compare closed forms with random maps instead (a minute)")
    parser.add_argument("--weights", default="", help="a checkpoint; default MODEL.WEIGHTS, else initial weights")
    parser.add_argument("--output", type=Path, default=Path("output/scales"), help="folder of the report")
    parser.add_argument("--batches", type=int, default=2, help="of SOLVER.IMS_PER_BATCH training samples")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    arguments = parser.parse_args()
    if arguments.batches < 1:
        parser.error(f"--batches is {arguments.batches}; at least one is needed")

    if arguments.theory:
        sys.exit(write_theory(arguments.output))
    cfg = load_config(arguments.config_file, arguments.opts)
    weights = arguments.weights or cfg.MODEL.WEIGHTS
    with console.quiet():
        check_labels(cfg, keys=("TRAIN",))
        model = check_model(cfg)
        if model is not None:
            check_weights(model, weights, key="--weights" if arguments.weights else "MODEL.WEIGHTS")
    setup_logger(name="scaleeq")
    choose_device(cfg)
    content = analyze_scales(cfg, weights=arguments.weights, num_batches=arguments.batches)
    content["about"]["config"] = arguments.config_file
    for path in write_report(content, arguments.output):
        print(path)
    for fusion in content["fusions"].values():
        print(fusion["verdict"])


if __name__ == "__main__":
    console.run(main)
