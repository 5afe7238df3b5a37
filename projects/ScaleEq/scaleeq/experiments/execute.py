"""Train what a comparison still lacks: one process of the training command for each variant and seed.

A run is a function of its config and seed: the seed decides the initial weights, the order of the samples, their
augmentation and every iteration's random numbers, so runs of one seed are paired. Each computes with one thread
(OMP_NUM_THREADS, unless it is set), as the bits depend on their number.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scaleeq import engine
from scaleeq.slurm import without_step
from scaleeq.training import Trainer, choose_device
from scaleeq.training.on_meta import build_on_meta

from .executors import HERE, Executor, Where, build_executor
from .jobs import CONSOLE, End, Job
from .plan import Plan, Variant, about, flat
from .runs import RUN_FILE, changed_keys, curve, finish_run, read_metrics, read_run

LOGS = ".submitit"  # in the folder of a comparison, where SLURM runs it; no name of a variant
TAIL_LINES = 15  # of the log of a failed run


def run_folder(output: Path, variant: Variant, seed: int) -> Path:
    return output / variant.name / f"seed_{seed}"


def execute(
    plan: Plan,
    output: Path,
    *,
    train: Sequence[str],
    where: Where = HERE,
    say: Callable[[str], None] = print,
) -> list[End]:
    """Run every variant with every seed that has not been run yet; returns how the runs that failed ended.

    train: the training command, such as ["tools/train_net.py"], run by this Python.
    where: the executor, and how many run at a time.
    say: told of the progress.

    ValueError, KeyError, FileNotFoundError: a config, a data set or the folder is wrong; before the first run.
    Stopped: by a signal, after all runs are stopped; the same call goes on where they were. Another call in the same
    folder shares the runs with this one; each returns when all are there.
    """
    check(plan, output)
    # What is still missing.
    wanted = [(run_folder(output, variant, seed), variant, seed) for variant, seed in plan.runs()]
    todo = [
        Job(
            name=f"seed {seed} {variant.name}",
            folder=folder,
            command=[
                *(sys.executable, *train, "--config-file", variant.config, "--resume"),
                *variant.options(seed, folder),
            ],
        )
        for folder, variant, seed in wanted
        if not (folder / RUN_FILE).is_file()
    ]
    if len(todo) < len(wanted):
        say(f"{len(wanted) - len(todo)} of {len(wanted)} runs are there already")
    # One thread a run.
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **without_step(os.environ)}
    environment["SCALEEQ_ENGINE"] = engine.NAME
    metrics = {folder: plan.measured[variant.name] for folder, variant, _ in wanted}
    executor = build_executor(
        where,
        settled=lambda job: _was_evaluated(job, metrics[job.folder][0]),
        finished=RUN_FILE,
        environment=environment,
        logs=output / LOGS,
        say=say,
    )
    progress = _Progress(metrics, num_runs=len(wanted), executor=executor, say=say)
    return [end for end in executor.run(todo, progress) if not _is_done(end.job)]


def check(plan: Plan, output: Path) -> None:
    """What can be wrong before the first run: each variant's config, data and model; runs of another comparison."""
    for variant in plan.variants:
        cfg = variant.load(plan.seeds[0])
        choose_device(cfg)
        try:
            Trainer.check(cfg)
            build_on_meta(cfg)
        except (KeyError, ValueError, FileNotFoundError, ImportError) as error:
            raise about(error, f"{plan.file}, variant {variant.name}") from error
        for seed in plan.seeds:
            folder = run_folder(output, variant, seed)
            if changed := changed_keys(folder, flat(variant.load(seed))):
                lines = "\n  ".join(f"{key}: {text}" for key, text in changed.items())
                raise ValueError(
                    f"{folder} holds a run with another config; in its config.yaml -> in {plan.file}:\n  {lines}\n"
                    "Choose another --output, delete that folder, or give the variant another name"
                )


def _is_done(job: Job) -> bool:
    return (job.folder / RUN_FILE).is_file()


def _was_evaluated(job: Job, metric: str) -> bool:
    return bool(curve(read_metrics(job.folder / "metrics.json"), metric))


class _Progress:
    """One line for each run that ends, with about how long the others will take."""

    def __init__(
        self, metrics: Mapping[Path, Sequence[str]], *, num_runs: int, executor: Executor, say: Callable[[str], None]
    ) -> None:
        """metrics: folder of a run -> those that it has to have."""
        self.metrics, self.executor, self.say = metrics, executor, say
        self.num_runs, self.ended = num_runs, 0
        self.started = time.monotonic()
        self.seconds = 0.0

    def __call__(self, end: End) -> None:
        self.ended += 1
        self.seconds += end.seconds
        position = f"[{self.num_runs - self.executor.left}/{self.num_runs}] {end.job.name}"
        if end.status:
            self.say(f"{position}: FAILED with exit code {end.status} after {end.seconds:.0f} s; its log's end:")
            self.say("\n".join(f"    {line}" for line in tail(end.job.folder / CONSOLE)))
            return
        finish_run(
            end.job.folder,
            {
                "command": list(map(str, end.job.command)),
                "seconds": round(end.seconds, 1),  # of its last start
                "peak_mib": None if end.peak_mib is None else round(end.peak_mib),
                "engine": f"{engine.NAME} {engine.VERSION}",
            },
        )
        metrics = self.metrics[end.job.folder]
        try:
            runs = [read_run(end.job.folder, metric) for metric in metrics]
        except ValueError:
            (end.job.folder / RUN_FILE).unlink()  # the other runs would lack it, too
            raise
        memory = f", {end.peak_mib:.0f} MiB" if end.peak_mib else ""
        values = ", ".join(f"{metric} {run.value:.2f}" for metric, run in zip(metrics, runs, strict=True) if run)
        self.say(f"{position}: {values}, {end.seconds:.0f} s{memory}{self._time_left()}")

    def _time_left(self) -> str:
        left = self.executor.left * self.seconds / self.ended / (self.executor.limit or 1)
        if not self.executor.left:
            return ""
        return f"; about {left / 60:.0f} min left" if left >= 90 else f"; about {left:.0f} s left"


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a file, the empty ones left out; none where there is no file."""
    if not path.is_file():  # of a run that a cluster did not begin
        return []
    return [line for line in path.read_text(errors="replace").splitlines() if line.strip()][-lines:]
