"""Options that say where the runs of a comparison run, and their refusals, before anything large is imported."""

from __future__ import annotations

import argparse

from scaleeq.experiments.executors import LOCAL, NAMES, RAY, SLURM, Where
from scaleeq.extras import how_to_get, installed

PACKAGE = {RAY: "ray", SLURM: "submitit"}


def add_executor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", default="auto", metavar="N", help="runs at a time; auto: by cores and memory")
    parser.add_argument("--executor", default=LOCAL, metavar="E", help=f"{', '.join(NAMES)} (docs/cluster.md)")
    parser.add_argument("--ray-address", metavar="A", help="of a Ray cluster; default: one that is started here")
    parser.add_argument("--cpus-per-run", type=int, metavar="N", help="of ray and slurm; default: 1")
    parser.add_argument("--gpus-per-run", type=float, metavar="X", help="of ray and slurm; parts of one are Ray's")
    parser.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="submitit's, as partition=gpu")


def read_where(arguments: argparse.Namespace) -> Where:
    """What the options say. ValueError: they contradict each other; ImportError: a package is not installed."""
    if arguments.jobs != "auto" and not (arguments.jobs.isdigit() and int(arguments.jobs)):
        raise ValueError(f"--jobs is {arguments.jobs}; give a number of at least 1, or auto")
    name, cpus, gpus = arguments.executor, arguments.cpus_per_run, arguments.gpus_per_run
    # Each option where it has a meaning.
    for option, value, executors in (
        ("--ray-address", arguments.ray_address, (RAY,)),
        ("--slurm", arguments.slurm, (SLURM,)),
        ("--cpus-per-run", cpus, (RAY, SLURM)),
        ("--gpus-per-run", gpus, (RAY, SLURM)),
    ):
        if value not in (None, []) and name in NAMES and name not in executors:
            raise ValueError(f"{option} needs --executor {' or '.join(executors)}; it is {name}")
    for option, value, least in (("--cpus-per-run", cpus, 1), ("--gpus-per-run", gpus, 0)):
        if value is not None and not value >= least:
            raise ValueError(f"{option} is {value}; give a number of at least {least}")
    where = Where(
        name,
        jobs=None if arguments.jobs == "auto" else int(arguments.jobs),
        cpus=1 if cpus is None else cpus,
        gpus=gpus,
        ray_address=arguments.ray_address or "",
        slurm=dict(_pair(word) for word in arguments.slurm),
    )
    if name in PACKAGE and not installed(PACKAGE[name]):
        raise ImportError(f"--executor {name}: {how_to_get(PACKAGE[name])}")
    return where


def _pair(word: str) -> tuple[str, object]:
    key, equals, value = word.partition("=")
    if not key or not equals:
        raise ValueError(f"--slurm has {word}; give KEY=VALUE, such as partition=gpu")
    import yaml  # --help needs none

    return key, yaml.safe_load(value)
