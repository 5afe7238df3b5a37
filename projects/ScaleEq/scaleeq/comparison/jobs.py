"""Several commands as processes, as many at a time as fit; a failed one does not stop the others.

Each holds a lock in its folder as long as it lives, so that a second caller does not write where the first one's
process still runs. POSIX alone. Own design.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import machine

POLL_S, MEMORY_S = 0.1, 2.0  # between two looks at the processes, at their memory
STOP_S = 10.0  # between SIGTERM and SIGKILL; also how long the lock of a process that ends may last
GPU_USED_MIB = 100  # a run that takes less does not run on a GPU
CONSOLE, LOCK = "console.txt", ".running"


@dataclass(frozen=True)
class Job:
    """folder: made where it is missing; gets console.txt."""

    name: str
    folder: Path
    command: Sequence[str]


@dataclass(frozen=True)
class End:
    """How a job ended. status: 0 is success. peak_mib: the most memory seen; None where the system does not say."""

    job: Job
    status: int
    seconds: float
    peak_mib: float | None


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen
    started: float
    gpu: int | None
    looked: float
    peak_mib: float | None = None
    gpu_mib: float = 0.0

    def look(self, gpus_before: Sequence[float] | None) -> None:
        """Remember the memory that it takes now, every MEMORY_S.

        gpus_before: free memory before it began, where it runs alone; None: it does not, or that is not of interest.
        """
        now = time.monotonic()
        if now - self.looked < MEMORY_S:
            return
        self.looked = now
        if mib := machine.tree_mib(self.process.pid):
            self.peak_mib = max(self.peak_mib or 0.0, mib)
        if gpus_before:
            drops = [before - free for before, free in zip(gpus_before, machine.gpus_free_mib(), strict=False)]
            self.gpu_mib = max(self.gpu_mib, *drops, 0.0)


class Pool:
    """Runs jobs in their order.

        for end in Pool(jobs=2).run(jobs): ...

    Args:
        jobs: at a time; None: one, until `settled(job)` says that it has shown what memory it takes, or it ended; then
            as many as cores, memory and, where there are GPUs, their memory allow.
        environment: of the processes; None: this process's.
        say: told about the choice.
    """

    def __init__(
        self,
        *,
        jobs: int | None,
        settled: Callable[[Job], bool] = lambda job: False,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs is {jobs}; at least one runs at a time (or auto)")
        self.limit = jobs
        self.settled = settled
        self.environment = dict(os.environ if environment is None else environment)
        self.say = say
        self._running: list[_Running] = []
        self._gpus_before: list[float] = []
        self._num_gpus = 0

    def run(self, jobs: Sequence[Job], on_end: Callable[[End], None]) -> list[End]:
        """on_end: told of each end as it comes. Returns all ends, in their order in time.

        KeyboardInterrupt, or whatever on_end raises: after all processes are stopped.
        """
        waiting, ends = list(jobs), []
        self._gpus_before = machine.gpus_free_mib() if jobs else []
        self._num_gpus = len(self._gpus_before)
        try:
            while waiting or self._running:
                while waiting and len(self._running) < (self.limit or 1):
                    self._start(waiting.pop(0))
                time.sleep(POLL_S)
                for running in self._running:
                    running.look(self._gpus_before if self.limit is None else None)
                self._choose_limit()
                for running in [each for each in self._running if each.process.poll() is not None]:
                    self._running.remove(running)
                    seconds = time.monotonic() - running.started
                    ends.append(End(running.job, running.process.returncode, seconds, running.peak_mib))
                    on_end(ends[-1])
        finally:
            self._stop()
        return ends

    def _start(self, job: Job) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        environment, gpu = dict(self.environment), None
        if self._num_gpus > 1:  # the one with the fewest runs
            taken = [running.gpu for running in self._running]
            gpu = min(range(self._num_gpus), key=taken.count)
            visible = [word for word in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
            environment["CUDA_VISIBLE_DEVICES"] = visible[gpu] if visible else str(gpu)
        with _locked(job.folder) as lock, (job.folder / CONSOLE).open("a") as console:
            process = subprocess.Popen(
                job.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which stops the others
                pass_fds=[lock.fileno()],
            )
        now = time.monotonic()
        self._running.append(_Running(job, process, now, gpu, looked=now))

    def _choose_limit(self) -> None:
        """From the first job, once it has shown what memory it takes."""
        if self.limit is not None or not self._running:
            return
        first = self._running[0]
        if first.process.poll() is None and not self.settled(first.job):
            return
        free, cores = machine.free_mib(), machine.cores()
        if first.peak_mib is None or free is None:
            if first.process.poll() is None:
                self.limit = 1
                self.say(
                    "one run at a time: this system does not say how much memory a run takes; choose with --jobs N"
                )
            return
        limits = {
            f"{cores} cores": cores,
            f"{first.peak_mib:.0f} MiB each": 1 + machine.more_runs(free, first.peak_mib),
        }
        if first.gpu_mib > GPU_USED_MIB:
            fitting = sum(int(machine.SHARE * free / first.gpu_mib) for free in self._gpus_before)
            limits[f"{first.gpu_mib:.0f} MiB of a GPU each"] = fitting
        self.limit = max(1, min(limits.values()))
        self.say(f"runs at a time: {self.limit} ({', '.join(f'{why}: {n}' for why, n in limits.items())})")

    def _stop(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for running in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.process.pid, sign)  # its workers too
            until = time.monotonic() + STOP_S
            while any(running.process.poll() is None for running in self._running) and time.monotonic() < until:
                time.sleep(POLL_S)
        self._running = []


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[IO[str]]:
    """The folder's lock, to be inherited. BlockingIOError: another process has it, also after a short wait."""
    with (folder / LOCK).open("w") as file:
        until = time.monotonic() + STOP_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BlockingIOError(
                        f"{folder} is being written by a process that another call of this command has started; wait "
                        "until it has ended, or end it"
                    ) from None
                time.sleep(POLL_S)
        yield file
