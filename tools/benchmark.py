#!/usr/bin/env python3
"""Parameters and multiply-adds of configs, by part and by kind of layer; or their time and memory, side by side.

    python tools/benchmark.py --count --json --config-file configs/cityscapes/semfpn_r50_{fpn,fapn}.yaml
    python tools/benchmark.py --config-file configs/toy/fpn.yaml configs/toy/fapn.yaml --size 128 128 --batch 8

--count needs no memory for weights or maps and takes seconds at any size. Without it the configs are timed in turn, in
one run, with random weights; ratios are to the first. --size is 1024 2048 for Cityscapes, else 512 512. Times are of
one process; SOLVER.AMP.ENABLED True times mixed precision. KEY VALUE pairs at the end override every config.
"""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from scaleeq import console

console.start()

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.engine import load_config
from scaleeq.reports.costs import count_table, time_table
from scaleeq.training import choose_device
from scaleeq.training.on_meta import count_config, image_size
from scaleeq.training.timing import time_configs

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")  # of a config, which ends the list of configs


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; after the configs, and at its end, are KEY VALUE pairs."""
    parser = console.parser(__doc__)
    parser.usage = "%(prog)s --config-file C [C ...] [--size H W] [--count] [--json] [KEY VALUE ...]"
    parser.add_argument("--config-file", nargs="+", required=True, metavar="C", help="a file or a name, with +overlays")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the images, pixels")
    parser.add_argument("--count", action="store_true", help="count, do not time")
    parser.add_argument("--json", action="store_true", help="one JSON object per config and line")
    parser.add_argument("--batch", type=int, default=1, help="images, where it times")
    parser.add_argument("--iterations", type=int, default=10, help="measurements of each config, where it times")
    arguments, rest = parser.parse_known_args(argv)
    words = [*arguments.config_file, *rest]
    first_key = next((index for index, word in enumerate(words) if KEY.fullmatch(word)), len(words))
    arguments.config_file, arguments.opts = words[:first_key], words[first_key:]
    strays = [word for word in words if word.startswith("--")]
    if len(arguments.opts) % 2 or strays or not arguments.config_file:
        parser.error(f"these are neither configs nor KEY VALUE pairs: {' '.join([*strays, *arguments.opts])}")
    if arguments.size and min(arguments.size) < 1:
        parser.error(f"--size is {arguments.size}; both are at least one pixel")
    return arguments


def main() -> None:
    arguments = parse()
    configs = [load_config(name, arguments.opts) for name in arguments.config_file]
    sizes = [tuple(arguments.size or image_size(cfg)) for cfg in configs]
    results: list[dict[str, Any]]
    if arguments.count:
        results = [count_config(cfg, size).as_dict() for cfg, size in zip(configs, sizes, strict=True)]
    else:
        for cfg in configs:
            choose_device(cfg)
        results = time_configs(configs, sizes=sizes, batch=arguments.batch, iterations=arguments.iterations)
    results = [
        {"config": name, "size": list(size), **result}
        for name, size, result in zip(arguments.config_file, sizes, results, strict=True)
    ]
    if arguments.json:
        print(*map(json.dumps, results), sep="\n")
    else:
        print(count_table(results) if arguments.count else time_table(results))


if __name__ == "__main__":
    console.run(main)
