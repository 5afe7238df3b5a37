"""Kills short runs at random moments, again and again, until as many kills are done as were asked for.

    python -m tests.training.kill_campaign --kills 100 --seed 0 --workers 2 --output docs/results/kill_campaign.json

Each run is started with --resume, killed (SIGKILL to all of its processes), looked at, started and killed again, and
after some kills left to end; then its files are compared with those of a run that nobody killed. A run is lost if it
does not resume, if a file in its folder is broken, or if anything but times differs. A third of the moments are uniform
over what is left of the run; the others are aimed, so that rare phases get their share. Every third run is float16 with
a loss scaler. `--variant "two processes"` starts two ranks, from a command of its own that nobody looks into.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# One thread, which is what the same bits twice need; read when numpy and torch are imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from scaleeq import engine

from .kill_check import Part, Steps, damage, differences, metric_differences, step_differences, whole_lines
from .kill_moments import (
    AIMS,
    CALIBRATION,
    ENDING,
    FINAL_EVALUATION,
    PHASES,
    REPEATED,
    UNIFORM,
    last_tag,
    phase_of,
    resumed_from,
    start_of,
    wait_for,
)
from .kill_run import ITERATIONS, STEPS_FILE, Attempt, arguments, read_steps, write_scenes

MAX_KILLS_OF_A_RUN = 8
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Kill:
    """One kill, and what the run did about it."""

    run: str
    aim: str
    phase: str
    seconds: float  # after the start of the attempt
    steps: int  # that the attempt had done
    resumed_from: str  # "": there was no checkpoint yet
    resumed_at: int  # iteration
    repeated: int  # steps of this attempt that were done once more


@dataclass
class Run:
    """A run, from its first start to its end, and what is wrong with it."""

    name: str
    kills: list[Kill] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unbroken:
    """The run that nobody kills: its folder, its single steps, and how long it took."""

    variant: str
    watched: bool
    output_dir: Path
    steps: Steps
    startup_s: float
    training_s: float

    def seconds_left(self, tag: str) -> float:
        """How long a run takes from the checkpoint of this name on."""
        digits = "".join(filter(str.isdigit, tag))
        start = int(digits) + 1 if digits else ITERATIONS if tag else 0
        return self.startup_s + self.training_s * (1 - start / (ITERATIONS + 1))


def run_unbroken(folder: Path, variant: str, *, watched: bool = True) -> Unbroken:
    """RuntimeError where it fails."""
    folder.mkdir(parents=True)
    attempt = Attempt(folder / "run", arguments(folder / "run", variant), watched=watched)
    startup_s = 0.0
    while not attempt.ended():
        if not startup_s and start_of(attempt.log()) is not None:
            startup_s = attempt.seconds
        time.sleep(0.005)
    if attempt.status:
        raise RuntimeError(f"a run that nobody killed ended with {attempt.status}:\n{_console(folder)}")
    steps = {step["iteration"]: step for step in read_steps(folder / STEPS_FILE)}
    return Unbroken(variant, watched, folder / "run", steps, startup_s, attempt.seconds - startup_s)


def _console(folder: Path) -> str:
    return (folder / "console.txt").read_text(errors="replace")[-3000:]


class Killer:
    """Kills runs that should all end as `reference` did.

    folder: of the runs; those with faults stay.
    """

    def __init__(self, reference: Unbroken, folder: Path, *, seed: list[int]):
        self.reference = reference
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self._aims: list[str] = []
        self._pace = 1.0  # how much slower this machine is now than in the unbroken run

    def kill_once(self, name: str, aim: str) -> Run:
        return self._run(name, [aim])

    def run(self, name: str, num_kills: int) -> Run:
        """A whole run with so many kills, or fewer, where it ends before an aimed moment comes."""
        return self._run(name, [None] * num_kills)

    def _run(self, name: str, aims: list[Any]) -> Run:
        folder = self.folder / name
        folder.mkdir(parents=True)
        run, output_dir, parts, kills = Run(name), folder / "run", [], []
        for planned in [*aims, ""]:
            aim = self._draw(output_dir) if planned is None else planned
            attempt = Attempt(output_dir, arguments(output_dir, self.reference.variant), watched=self.reference.watched)
            try:
                killed = self._attack(attempt, aim)
            except TimeoutError as error:
                run.faults.append(str(error))
                break
            log, start = attempt.log(), start_of(attempt.log())
            if start is not None or not killed:
                kills = [_resumed(kill, log, start or 0) for kill in kills]
            parts.append(Part(parts[-1].start if start is None and parts else start or 0, whole_lines(output_dir)))
            run.faults += damage(output_dir) + step_differences(self.reference.steps, attempt.steps())
            if not killed:
                run.faults += self._ending(attempt, parts)
                break
            kills.append(self._kill(name, aim, attempt))
        run.kills = [Kill(**kill) for kill in kills]
        if not run.faults:
            shutil.rmtree(folder)
        return run

    def _draw(self, output_dir: Path) -> str:
        """The next aim; in every deck each phase is there once, and a uniform moment for every two of them."""
        if not self._aims:
            deck = [*AIMS, *[UNIFORM] * (len(AIMS) // 2)]
            self._aims = [deck[index] for index in self.rng.permutation(len(deck))]
        calibrated = bool(last_tag(output_dir))
        for index, aim in enumerate(self._aims):
            if not (calibrated and aim == CALIBRATION):
                return self._aims.pop(index)
        return UNIFORM

    def _attack(self, attempt: Attempt, aim: str) -> bool:
        """Whether the attempt was killed; not, where it ended before or has no aim."""
        expected = self.reference.seconds_left(last_tag(attempt.output_dir))
        left = self._pace * expected
        latest_s = left * float(self.rng.uniform(0.0 if aim == UNIFORM else 0.8, 1.0))
        if aim in (FINAL_EVALUATION, ENDING):
            latest_s = TIMEOUT_S
        skip = int(self.rng.integers(5)) if aim in REPEATED else 0
        delay = float(self.rng.uniform()) * (self.rng.uniform() > 0.3)
        came = wait_for(attempt, aim, skip=skip, delay=delay, latest_s=latest_s, timeout_s=TIMEOUT_S)
        if not came:
            self._pace = (self._pace * attempt.seconds / expected) ** 0.5
        return came and attempt.kill()

    def _kill(self, name: str, aim: str, attempt: Attempt) -> dict[str, Any]:
        steps = attempt.steps()
        return {
            "run": name,
            "aim": aim,
            "phase": phase_of(attempt),
            "seconds": round(attempt.seconds, 3),
            "steps": len(steps),
            "resumed_from": "",
            "resumed_at": -1,
            "repeated": steps[-1]["iteration"] + 1 if steps else 0,  # until it is known where the next attempt begins
        }

    def _ending(self, attempt: Attempt, parts: list[Part]) -> list[str]:
        """What is wrong with a run that was left to end."""
        if attempt.status:
            return [f"ended with {attempt.status}:\n{_console(attempt.output_dir.parent)}"]
        unbroken = self.reference
        return [
            *differences(unbroken.output_dir, attempt.output_dir),
            *metric_differences(unbroken.output_dir, attempt.output_dir, parts, unbroken.steps),
        ]


def _resumed(kill: dict[str, Any], log: str, start: int) -> dict[str, Any]:
    """A kill that waited for an attempt to say where it goes on."""
    if kill["resumed_at"] >= 0:
        return kill
    repeated = max(0, kill["repeated"] - start)
    return {**kill, "resumed_from": resumed_from(log), "resumed_at": start, "repeated": repeated}


# ---------------------------------------------------------------------------------------------------- many runs


def work(references: list[Unbroken], folder: Path, kills: int, seed: list[int], report: Path) -> None:
    """So many kills, in turns on runs as each reference; the runs go to the file `report`."""
    killers = [Killer(reference, folder, seed=[*seed, index]) for index, reference in enumerate(references)]
    rng = np.random.default_rng(seed)
    runs: list[Run] = []
    while (missing := kills - sum(len(run.kills) for run in runs)) > 0:
        killer = killers[len(runs) % len(killers)]
        name = "-".join([killer.reference.variant, *map(str, seed), str(len(runs))]).replace(" ", "-")
        runs.append(killer.run(name, min(missing, int(rng.integers(2, MAX_KILLS_OF_A_RUN + 1)))))
        done = sum(len(run.kills) for run in runs)
        print(f"{name}: {len(runs[-1].kills)} kills, {done} of {kills}", *runs[-1].faults[:5], sep="\n  ", flush=True)
        report.write_text(json.dumps([asdict(run) for run in runs]))


def campaign(folder: Path, *, kills: int, seed: int, workers: int, variants: list[str], watched: bool) -> list[Run]:
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
        jobs.append(fork.Process(target=work, args=(references, folder, share, [seed, worker], report)))
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
        folder, kills=options.kills, seed=options.seed, workers=options.workers, variants=variants, watched=watched
    )
    report = {
        "command": "python -m tests.training.kill_campaign " + " ".join(sys.argv[1:]),
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
