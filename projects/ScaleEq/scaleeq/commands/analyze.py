"""Show the scales of a config's branches, or what a run has learned.

    scaleeq analyze camvid/uper_r18 --output output/scales             scales.json, scales.html, an SVG for each fusion
    scaleeq analyze CONFIG --weights W --batches 8 SOLVER.IMS_PER_BATCH 4
    scaleeq analyze output/quickstart --images 4                       predictions.png, branch_scales.svg in the folder
    scaleeq analyze --theory --output output/theory                    closed forms against random maps; in a checkout

A folder is a run's OUTPUT_DIR; --weights is then a checkpoint inside it, default model_final.pth. Every other word is
a config's path or name, with +overlays; --weights is then a checkpoint, default MODEL.WEIGHTS.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from scaleeq import console

from . import plot_run, scales
from .words import one_name

STOPPED = "stopped"


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.usage = "%(prog)s [CONFIG_OR_RUN | --theory] [options] [KEY VALUE ...]"
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--config-file", default="", metavar="C", help="instead of the first word")
    parser.add_argument(
        "--theory", action="store_true", help="compare closed forms with random maps instead (a minute)"
    )
    scales.add_options(parser)
    plot_run.add_options(parser)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    arguments = parser.parse_intermixed_args(argv)
    if arguments.theory:
        if arguments.words or arguments.config_file:
            raise ValueError(f"--theory is of no config: leave out {arguments.config_file or arguments.words[0]}")
        arguments.opts = []
    else:
        what = "config or one run's folder, or --theory"
        arguments.config_file, arguments.opts = one_name(arguments.words, given=arguments.config_file, what=what)
    scales.check_batches(parser, arguments)
    return arguments


def run(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.config_file).expanduser()
    if arguments.theory or not folder.is_dir():
        return scales.run(arguments)
    if not (folder / plot_run.CONFIG_OF_RUN).is_file():
        raise FileNotFoundError(f"{folder} is a folder without {plot_run.CONFIG_OF_RUN}: not that of a run")
    if arguments.opts:
        raise ValueError(f"{folder} is a run's folder, whose config is as it was: leave out {' '.join(arguments.opts)}")
    arguments.output_dir, arguments.weights = folder, arguments.weights or plot_run.WEIGHTS
    plot_run.run(arguments)
    return 0
