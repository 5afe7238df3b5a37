"""Parameters and multiply-adds of configs, by part and by kind of layer; or their time and memory, side by side.

    scaleeq benchmark --count --json cityscapes/semfpn_r50_fpn cityscapes/semfpn_r50_fapn
    scaleeq benchmark toy/fpn toy/fapn --size 128 128 --batch 8
    python tools/benchmark.py --config-file C [C ...] ...                  the classic form

--count needs no memory for weights or maps and takes seconds at any size. Without it the configs are timed in turn, in
one run, with random weights; ratios are to the first. --size is 1024 2048 for Cityscapes, else 512 512. Times are of
one process; SOLVER.AMP.ENABLED True times mixed precision. KEY VALUE pairs at the end override every config.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scaleeq import console
from scaleeq.records import Json

from .words import positive, refuse_detectors, refuse_early, split_at_key

if TYPE_CHECKING:
    from scaleeq.engine import CfgNode

STOPPED = "stopped"
MOST_PIXELS = 1 << 31  # of a picture that can be read
Size = tuple[int, int]  # height and width in pixels


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.usage = "%(prog)s C [C ...] [--size H W] [--count] [--json] [KEY VALUE ...]"
    parser.add_argument(
        "--config-file",
        nargs="+",
        default=[],
        metavar="C",
        help="files or names, with +overlays; also without the option",
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the images, pixels")
    parser.add_argument("--count", action="store_true", help="count, do not time")
    parser.add_argument("--json", action="store_true", help="one JSON object per config and line")
    parser.add_argument("--batch", type=positive, default=1, help="images, where it times")
    parser.add_argument("--iterations", type=positive, default=10, help="measurements of each config, where it times")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The command line; after the configs, and at its end, are KEY VALUE pairs."""
    arguments, rest = parser.parse_known_args(argv)
    words = [*arguments.config_file, *rest]
    arguments.config_file, arguments.opts = split_at_key(words)
    strays = [word for word in words if word.startswith("--")]
    if not words:
        parser.error("the following arguments are required: --config-file")
    if len(arguments.opts) % 2 or strays or not arguments.config_file:
        parser.error(f"these are neither configs nor KEY VALUE pairs: {' '.join([*strays, *arguments.opts])}")
    if arguments.size and min(arguments.size) < 1:
        parser.error(f"--size is {arguments.size}; both are at least one pixel")
    if arguments.size and arguments.size[0] * arguments.size[1] > MOST_PIXELS:
        parser.error(f"--size is {arguments.size}; an image has at most {MOST_PIXELS} pixels")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    import json

    for name in arguments.config_file:
        refuse_early(name, arguments.opts)
        refuse_detectors(
            name,
            arguments.opts,
            why="what a detector costs depends on the image; `scaleeq eval` writes its parameters, multiply-adds and "
            "seconds an image into inference/results.json",
        )
    import scaleeq.segmentor  # noqa: F401  (registers the model)
    from scaleeq.engine import load_config
    from scaleeq.reports.costs import count_table, time_table
    from scaleeq.training.on_meta import image_size

    configs = [load_config(name, arguments.opts) for name in arguments.config_file]
    sizes: list[Size] = [tuple(arguments.size or image_size(cfg)) for cfg in configs]
    results = [
        {"config": name, "size": list(size), **result}
        for name, size, result in zip(arguments.config_file, sizes, _measure(arguments, configs, sizes), strict=True)
    ]
    if arguments.json:
        print(*map(json.dumps, results), sep="\n")
    else:
        print(count_table(results) if arguments.count else time_table(results))


def _measure(arguments: argparse.Namespace, configs: list[CfgNode], sizes: list[Size]) -> list[Json]:
    """A result of each config at its size (height, width)."""
    from scaleeq.training import choose_device
    from scaleeq.training.on_meta import count_config
    from scaleeq.training.timing import time_configs

    if arguments.count:
        return [count_config(cfg, size).as_dict() for cfg, size in zip(configs, sizes, strict=True)]
    for cfg in configs:
        choose_device(cfg)
    return time_configs(configs, sizes=sizes, batch=arguments.batch, iterations=arguments.iterations)
