#!/usr/bin/env python3
"""Draw what a run has learned: predictions.png and branch_scales.svg in its OUTPUT_DIR.

Example: python tools/plot_run.py output/quickstart --images 4 --weights model_best.pth
"""

from __future__ import annotations

from pathlib import Path

from scaleeq import console

console.start()

from scaleeq.engine import load_config
from scaleeq.files import read_json
from scaleeq.reports.pictures.finished_run import plot_predictions
from scaleeq.reports.scales_drawing import branch_scales, plot_branch_scales
from scaleeq.training import choose_device


def main() -> None:
    parser = console.parser(__doc__)
    parser.add_argument("output_dir", type=Path, help="of a run: holds config.yaml and weights")
    parser.add_argument("--images", type=int, default=4, help="rows of the picture of predictions")
    parser.add_argument("--weights", default="model_final.pth", help="a checkpoint inside output_dir")
    arguments = parser.parse_args()

    cfg = load_config(arguments.output_dir / "config.yaml")
    choose_device(cfg)
    path = arguments.output_dir / "predictions.png"
    plot_predictions(cfg, str(arguments.output_dir / arguments.weights), path, num_images=arguments.images)
    print(path)
    statistics = read_json(
        arguments.output_dir / "scale_statistics.json", sound=lambda content: bool(branch_scales(content))
    )
    if statistics:
        path = arguments.output_dir / "branch_scales.svg"
        plot_branch_scales(statistics, path)
        print(path)


if __name__ == "__main__":
    console.run(main)
