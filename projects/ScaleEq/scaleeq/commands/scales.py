"""Show the scales of a model's branches, and what scale equalizers would do to them, without training.

    scaleeq analyze camvid/uper_r18 --output output/scales
    scaleeq analyze CONFIG --weights model_final.pth --batches 8 SOLVER.IMS_PER_BATCH 4
    scaleeq analyze --theory --output output/theory
    python tools/analyze_scales.py --config-file CONFIG ...

Writes scales.json, scales.html (one file, to open in any browser), the numbers as scales.csv and scales.tex, and for
each fusion a figure as .svg, .png and .pdf; prints a line for each.
Nothing else is changed: the equalized model is a copy. Data sets are found under $DETECTRON2_DATASETS.
--theory needs no model, and a checkout (it runs evidence.theory): figure_3.png, upsampled_variance.png and theory.json,
what upsampling does to random maps.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scaleeq import console
from scaleeq.config.parts import CHECKOUT
from scaleeq.files import require_writable

from .words import refuse_early, refuse_weights

STOPPED = "stopped"


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", metavar="C", help="a config's path or name, with +overlays")
    what.add_argument("--theory", action="store_true", help="compare closed forms with random maps instead (a minute)")
    add_options(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of what is measured, and where it is written."""
    parser.add_argument("--weights", default="", help="a checkpoint; default MODEL.WEIGHTS, else initial weights")
    parser.add_argument("--output", type=Path, default=Path("output/scales"), help="folder of the report")
    parser.add_argument("--batches", type=int, default=2, help="of SOLVER.IMS_PER_BATCH training samples")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    arguments = parser.parse_args(argv)
    check_batches(parser, arguments)
    return arguments


def check_batches(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.batches < 1:
        parser.error(f"--batches is {arguments.batches}; at least one is needed")


def run(arguments: argparse.Namespace) -> int:
    require_writable(arguments.output, folder=True, key="--output")
    if arguments.theory:
        return write_theory(arguments.output)
    early = refuse_early(arguments.config_file, arguments.opts)
    refuse_weights(arguments.config_file, early, arguments.weights, needed=False)
    from scaleeq.engine import load_config, setup_logger
    from scaleeq.reports.scales_analysis import analyze_scales
    from scaleeq.reports.scales_page import write_report
    from scaleeq.training import choose_device
    from scaleeq.training.check_data import check_labels
    from scaleeq.training.rehearsal import check_model, check_weights

    # Check before logging.
    cfg = load_config(arguments.config_file, arguments.opts)
    weights = arguments.weights or cfg.MODEL.WEIGHTS
    with console.quiet():
        check_labels(cfg, keys=("TRAIN",))
        model = check_model(cfg)
        if model is not None:
            check_weights(model, weights, key="--weights" if arguments.weights else "MODEL.WEIGHTS")
    # Measure and write.
    setup_logger(name="scaleeq")
    choose_device(cfg)
    content = analyze_scales(cfg, weights=arguments.weights, num_batches=arguments.batches)
    content["about"]["config"] = arguments.config_file
    for path in write_report(content, arguments.output):
        print(path)
    for fusion in content["fusions"].values():
        print(" ".join(filter(None, (fusion["verdict"], fusion["pull"]))))
    return 0


def write_theory(output: Path) -> int:
    """The exit code of evidence.theory, which is in a checkout alone."""
    checkout = CHECKOUT.parent
    if not (checkout / "evidence").is_dir():
        raise ValueError(f"--theory runs evidence.theory, which is in a checkout alone: there is none at {checkout}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "evidence.theory", "--output", str(output.absolute())]
    return subprocess.run(command, cwd=checkout, env=environment).returncode
