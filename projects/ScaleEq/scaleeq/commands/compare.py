"""Compare variants of a config over several seeds: train each with each seed, and say which differences can be called.

    scaleeq compare configs/ablations/toy_sgd.yaml --output output/toy_sgd
    scaleeq compare FILE.yaml --seeds 0 1 --jobs 2
    scaleeq compare FILE.yaml --executor ray --ray-address HOST:6379    on many machines; or --executor slurm
    scaleeq compare FILE.yaml --summary-only
    scaleeq compare --runs output/quickstart output/camvid
    python tools/compare.py ...                                  the same

The file names a base config, the variants' keys, the seeds and the baseline (docs/compare.md). Runs that are there are
not trained again, interrupted ones go on: the same command continues. The output folder gets comparison.json, .md,
.html, .csv and .tex, and figures/ (.svg, .png, .pdf); the exit status is 1 where a run failed. --runs prints one table
over the folders of any runs instead.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaleeq import console
from scaleeq.files import require_writable

from .executor_options import add_executor_options, read_where

if TYPE_CHECKING:
    from scaleeq.experiments.plan import Plan

STOPPED = "stopped"
TRAIN = ("-m", "scaleeq", "train")  # by the same Python


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE.yaml", help="the comparison")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: output/compare/<name of the file>")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="S", help="instead of the file's")
    parser.add_argument("--summary-only", action="store_true", help="train nothing; of the runs that are there")
    parser.add_argument("--runs", type=Path, nargs="+", metavar="DIR", help="a table over these runs, no comparison")
    parser.add_argument("--metric", default="sem_seg/mIoU", help="of --runs")
    add_executor_options(parser)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    arguments = parser.parse_args(argv)
    if (arguments.file is None) == (arguments.runs is None):
        parser.error("give a comparison's FILE.yaml, or --runs with folders of runs")
    try:
        arguments.where = read_where(arguments)
    except (ImportError, ValueError) as error:
        parser.error(str(error))
    if arguments.output is None and arguments.file:
        arguments.output = Path("output") / "compare" / arguments.file.stem
    return arguments


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone, which is no reason to leave the runs alone
        print(text, flush=True)


def run(arguments: argparse.Namespace) -> int:
    """The exit status."""
    if arguments.file and not arguments.file.is_file():
        raise FileNotFoundError(f"there is no comparison's file {arguments.file.absolute()}")
    if arguments.output:
        require_writable(arguments.output, folder=True, key="--output")
    if arguments.runs:
        from scaleeq.experiments.run_table import compare_runs, runs_table, write_runs

        records = compare_runs(arguments.runs, arguments.metric)
        say(runs_table(records, arguments.metric))
        if arguments.output:
            say("\n".join(map(str, write_runs(records, arguments.output, arguments.metric))))
        return 0
    from scaleeq.experiments.plan import read_plan

    plan = read_plan(arguments.file, seeds=arguments.seeds)
    status = 0 if arguments.summary_only else _train(plan, arguments)
    _summarize(plan, arguments.output)
    return status


def _train(plan: Plan, arguments: argparse.Namespace) -> int:
    """Train what is missing; the exit status."""
    from scaleeq.experiments.execute import execute
    from scaleeq.stopping import Stopped, stop_signals

    try:
        with stop_signals(at_once=True):
            failed = execute(plan, arguments.output, train=TRAIN, where=arguments.where, say=say)
        return 1 if failed else 0
    except Stopped as stop:
        say(f"Stopped by {stop.signal_name}, and the runs with it. The same command goes on from here.")
        return 128 + stop.number


def _summarize(plan: Plan, output: Path) -> None:
    """Write and print what the runs that are there say."""
    from scaleeq.experiments.summary import summarize_comparison
    from scaleeq.reports.comparison_page import write_report
    from scaleeq.reports.comparison_tables import all_tables, all_verdicts

    content = summarize_comparison(plan, output)
    paths = write_report(content, output)
    say("\n" + all_tables(content, style="simple") + "\n")
    say("\n".join(words for words, _ in all_verdicts(content)))
    if content["missing"]:
        say(f"Missing runs: {'; '.join(content['missing'])}")
    say("\n".join(map(str, paths)))
