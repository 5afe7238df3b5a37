"""Draw what a run has learned: predictions.png and branch_scales.svg, .png and .pdf in its OUTPUT_DIR.

scaleeq analyze output/quickstart --images 4 --weights model_best.pth
python tools/plot_run.py output/quickstart --images 4 --weights model_best.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from scaleeq import console
from scaleeq.files import require_checkpoint

from .words import positive

STOPPED = "stopped"
WEIGHTS = "model_final.pth"
CONFIG_OF_RUN = "config.yaml"


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.add_argument("output_dir", type=Path, help="of a run: holds config.yaml and weights")
    add_options(parser)
    parser.add_argument("--weights", default=WEIGHTS, help="a checkpoint inside output_dir")
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of what is drawn."""
    parser.add_argument("--images", type=positive, default=4, help="rows of the picture of predictions")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    weights = str(arguments.output_dir / arguments.weights)
    from scaleeq.engine.config_io import read_config

    read_config(arguments.output_dir / CONFIG_OF_RUN)  # tells a mistake without torch
    require_checkpoint(weights, key="--weights")
    from scaleeq.engine import load_config
    from scaleeq.files import read_json
    from scaleeq.reports.pictures.finished_run import plot_predictions
    from scaleeq.reports.scales_drawing import branch_scales, plot_branch_scales
    from scaleeq.reports.style import in_all_kinds
    from scaleeq.training import choose_device

    cfg = load_config(arguments.output_dir / CONFIG_OF_RUN)
    choose_device(cfg)
    path = arguments.output_dir / "predictions.png"
    plot_predictions(cfg, weights, path, num_images=arguments.images)
    print(path)
    statistics = read_json(
        arguments.output_dir / "scale_statistics.json", sound=lambda content: bool(branch_scales(content))
    )
    if statistics:
        paths = in_all_kinds(arguments.output_dir / "branch_scales")
        plot_branch_scales(statistics, paths)
        print("\n".join(map(str, paths)))
