#!/usr/bin/env python3
"""How fast images are counted, against the peers that are installed, in one run.

    python tools/benchmark_evaluation.py --json evaluation.json
    python tools/benchmark_evaluation.py --noise --peer-python /path/to/an/environment/with/mmsegmentation/bin/python

Contenders take turns; medians of the rounds. Two numbers of threads: one, and as many as there are cores. --memory N
also counts N images and prints how the peak memory grew from the 200th on.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from scaleeq.evaluation.benchmark import benchmark_table, default_threads, memory_growth, time_counting
from scaleeq.files import write_json


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="different ones, of each size")
    parser.add_argument("--rounds", type=int, default=7, help="passes over them, of each contender")
    parser.add_argument("--noise", action="store_true", help="random predictions: an untrained network")
    parser.add_argument("--peer-python", metavar="PATH", help="an interpreter that has mmsegmentation")
    parser.add_argument("--memory", type=int, default=20_000, metavar="N", help="images; 0: do not measure")
    parser.add_argument("--json", metavar="FILE", help="where the rows are written")
    arguments = parser.parse_args(argv)
    if arguments.images < 1 or arguments.rounds < 1 or (arguments.memory and arguments.memory < 200):
        parser.error("--images and --rounds are at least 1, --memory is 0 or at least 200")
    return arguments


def main() -> None:
    arguments = parse()
    record: dict[str, Any] = {
        "counting": time_counting(
            images=arguments.images,
            rounds=arguments.rounds,
            threads=sorted({1, default_threads()}),
            peer_python=arguments.peer_python,
            noise=arguments.noise,
        )
    }
    print(benchmark_table(record["counting"]))
    if arguments.memory:
        record["memory"] = memory_growth(arguments.memory)
        print(
            "peak memory, MB, after {0[0]:,} and {0[1]:,} images: {1[0]:.1f}, {1[1]:.1f}".format(
                *record["memory"].values()
            )
        )
    if arguments.json:
        write_json(arguments.json, record)


if __name__ == "__main__":
    main()
