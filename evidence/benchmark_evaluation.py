"""How fast images are counted, against the peers that are installed, in one run.

    python -m evidence.benchmark_evaluation --json docs/results/evaluation_speed.json --document docs/evaluation.md
    python -m evidence.benchmark_evaluation --peer-python /path/to/an/environment/with/mmsegmentation/bin/python
    python -m evidence.benchmark_evaluation --values --rounds 30 --json docs/results/evaluation_speed_values.json
    python -m evidence.benchmark_evaluation --show docs/results/evaluation_speed.json

Contenders take turns, each in a process of its own; medians of the rounds. Two numbers of threads: one, and as many as
there are cores. Then stored predictions are scored on all cores, and N images are counted to see whether memory grows.
--document also writes the tables into a page, between the two marks; --show prints those of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from scaleeq import console

console.start()

from scaleeq.data import read_labels
from scaleeq.data.reading import read_instances
from scaleeq.evaluation.predictions import Reader
from scaleeq.files import write_json, write_text

from .collected import command_line
from .counting_speed.contenders import default_threads, time_counting
from .counting_speed.record import in_document, machine, printed
from .counting_speed.stored import in_fresh_process, memory_growth, time_stored
from .counting_speed.values import time_values


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = console.parser(__doc__)
    parser.add_argument("--images", type=int, default=6, help="different ones, of each size (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="passes over them, of each (default: %(default)s)")
    parser.add_argument("--peer-python", default="", metavar="PATH", help="an interpreter that has mmsegmentation")
    parser.add_argument("--stored", type=int, default=400, metavar="N", help="predictions; 0: none (default: 400)")
    parser.add_argument("--memory", type=int, default=20_000, metavar="N", help="images; 0: none (default: 20000)")
    parser.add_argument("--values", action="store_true", help="depth, normals, edges, saliency and parts instead")
    parser.add_argument("--json", metavar="FILE", help="where the numbers are written")
    parser.add_argument("--document", metavar="FILE", help="a page whose tables are written anew")
    parser.add_argument("--show", metavar="FILE", help="measure nothing, print the tables of this file")
    arguments = parser.parse_args(argv)
    if arguments.images < 1 or arguments.rounds < 1 or (arguments.memory and arguments.memory < 200):
        parser.error("--images and --rounds are at least 1, --memory is 0 or at least 200")
    return arguments


def main() -> None:
    arguments = parse()
    # Other tasks than classes.
    if arguments.values:
        load = os.getloadavg()[0]
        record: dict[str, Any] = {"rows": time_values(rounds=arguments.rounds), "rounds": arguments.rounds}
        record |= {"machine": machine([load, os.getloadavg()[0]]), "command": command_line("benchmark_evaluation")}
        if arguments.json:
            write_json(arguments.json, record)
        print(json.dumps(record, indent=1))
        return
    record = json.loads(Path(arguments.show).read_text()) if arguments.show else measure(arguments)
    if arguments.json:
        write_json(arguments.json, record)
    print(printed(record))
    if arguments.document:
        write_text(arguments.document, in_document(Path(arguments.document).read_text(), record))


def measure(arguments: argparse.Namespace) -> dict:
    threads, load = default_threads(), [os.getloadavg()[0]]
    record = {}
    if arguments.memory:
        record["memory"] = in_fresh_process(memory_growth, arguments.memory)
    if arguments.stored:
        reader = Reader(labels=read_labels, instances=read_instances)
        record["stored"] = time_stored(reader, images=arguments.stored, rounds=arguments.rounds, workers=threads)
    record["counting"] = time_counting(
        images=arguments.images,
        rounds=arguments.rounds,
        threads=sorted({1, threads}),
        peer_python=arguments.peer_python,
    )
    about = {"command": command_line("benchmark_evaluation"), "machine": machine([*load, os.getloadavg()[0]])}
    return about | record


if __name__ == "__main__":
    console.run(main)
