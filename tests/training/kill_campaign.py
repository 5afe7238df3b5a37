"""Kills short runs at random moments, again and again, until as many kills are done as were asked for.

    python -m tests.training.kill_campaign --kills 100 --seed 0 --workers 2 --output docs/results/kill_campaign.json

Each run is started with --resume, killed (SIGKILL to all of its processes), looked at, started and killed again, and
after some kills left to end; then its files are compared with those of a run that nobody killed. A run is lost if it
does not resume, if a file in its folder is broken, or if anything but times differs. A third of the moments are uniform
over what is left of the run; the others are aimed, so that rare phases get their share. Every third run is float16 with
a loss scaler. `--variant "two processes"` starts two ranks, from a command of its own that nobody looks into.

With `--signals` the blow is SIGTERM, SIGINT, SIGHUP or SIGKILL, to the first process, to all, or to one rank. A run is
lost as well if it does not end within a minute with the signal's exit status, or trains a step again that it had done.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

# One thread, which is what the same bits twice need; read when numpy and torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from scaleeq import engine

from .kill_killer import Kill, Killer, Run, Unbroken, run_unbroken
from .kill_moments import PHASES
from .kill_run import write_scenes

MAX_KILLS_OF_A_RUN = 8


def work(
    references: list[Unbroken], folder: Path, kills: int, seed: list[int], report: Path, *, signals: bool = False
) -> None:
    """So many kills, in turns on runs as each reference; the runs go to the file `report`."""
    killers = [
        Killer(reference, folder, seed=[*seed, index], signals=signals) for index, reference in enumerate(references)
    ]
    rng = np.random.default_rng(seed)
    runs: list[Run] = []
    while (missing := kills - sum(len(run.kills) for run in runs)) > 0:
        killer = killers[len(runs) % len(killers)]
        name = "-".join([killer.reference.variant, *map(str, seed), str(len(runs))]).replace(" ", "-")
        runs.append(killer.run(name, min(missing, int(rng.integers(2, MAX_KILLS_OF_A_RUN + 1)))))
        done = sum(len(run.kills) for run in runs)
        print(f"{name}: {len(runs[-1].kills)} kills, {done} of {kills}", *runs[-1].faults[:5], sep="\n  ", flush=True)
        report.write_text(json.dumps([asdict(run) for run in runs]))


def campaign(
    folder: Path, *, kills: int, seed: int, workers: int, variants: list[str], watched: bool, signals: bool
) -> list[Run]:
    """All runs, of all workers. Must be called before this process has started a thread: it forks."""
    unbroken = {
        variant: run_unbroken(folder / "unbroken" / variant.replace(" ", "-"), variant, watched=watched)
        for variant in dict.fromkeys(variants)
    }
    references = [unbroken[variant] for variant in variants]
    fork = multiprocessing.get_context("fork")
    jobs, reports = [], [folder / f"report-{worker}.json" for worker in range(workers)]
    for worker, report in enumerate(reports):
        share = kills // workers + (worker < kills % workers)
        args = (references, folder, share, [seed, worker], report)
        jobs.append(fork.Process(target=work, args=args, kwargs={"signals": signals}))
        jobs[-1].start()
    for job in jobs:
        job.join()
        if job.exitcode:
            raise RuntimeError(f"a worker of the campaign ended with {job.exitcode}")
    runs = [run for report in reports for run in json.loads(report.read_text())]
    return [Run(run["name"], [Kill(**kill) for kill in run["kills"]], run["faults"]) for run in runs]


def summary(runs: list[Run]) -> dict[str, Any]:
    kills = [kill for run in runs for kill in run.kills]
    phases = Counter(kill.phase for kill in kills)
    return {
        "kills": len(kills),
        "kills_by_signal": dict(Counter(kill.signal for kill in kills)),
        "steps_repeated_after_a_signal": sum(kill.repeated for kill in kills if kill.signal != "SIGKILL"),
        "longest_from_signal_to_end_s": max((kill.ended_s for kill in kills), default=0.0),
        "runs": len(runs),
        "lost_runs": sum(bool(run.faults) for run in runs),
        "steps_repeated": sum(kill.repeated for kill in kills),
        "kills_by_phase": {phase: phases[phase] for phase in PHASES},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--variant", action="append", help="float32, float16 or 'two processes'; may be repeated")
    parser.add_argument("--signals", action="store_true", help="SIGTERM, SIGINT, SIGHUP and SIGKILL in turns")
    parser.add_argument("--folder", type=Path, help="an empty folder for the runs; lost ones stay there")
    parser.add_argument("--output", type=Path, help="the report, a JSON file")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kills-"))
    variants = options.variant or ["float32", "float32", "float16"]
    watched = "two processes" not in variants
    write_scenes(folder / "datasets")
    os.environ["DETECTRON2_DATASETS"] = str(folder / "datasets")
    started = time.perf_counter()
    runs = campaign(
        folder,
        kills=options.kills,
        seed=options.seed,
        workers=options.workers,
        variants=variants,
        watched=watched,
        signals=options.signals,
    )
    report = {
        "command": f"python -m tests.training.kill_campaign {shlex.join(sys.argv[1:])}",
        "engine": f"{engine.NAME} {engine.VERSION}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started),
        **summary(runs),
        "lost": {run.name: run.faults[:20] for run in runs if run.faults},
    }
    for key, value in report.items():
        print(f"{key}:", value)
    if options.output:
        lines = ",\n".join(f"  {json.dumps(asdict(kill))}" for run in runs for kill in run.kills)
        head = json.dumps(report, indent=1)[:-2]
        options.output.write_text(f'{head},\n "log": [\n{lines}\n ]\n}}\n')
    if not report["lost_runs"] and not options.folder:
        shutil.rmtree(folder)
    return int(bool(report["lost_runs"]))


if __name__ == "__main__":
    sys.exit(main())
