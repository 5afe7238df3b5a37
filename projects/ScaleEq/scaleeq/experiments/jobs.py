"""Several commands as processes, as many at a time as fit; a failed one does not stop the others.

Each job's folder is locked by its caller until its end was dealt with, so that several callers share the jobs: one that
another has is left to that one, and looked at again when it is free. A job that is a training takes a lock of its own,
which it keeps where its caller is killed; such a job is waited for, too. It needs POSIX.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scaleeq.folder_lock import FolderInUse, FolderLock, Holder
from scaleeq.stopping import check_stop, stop_signals

from . import machine

POLL_S, MEMORY_S = 0.1, 2.0  # between two looks at the processes, at their memory
STOP_S = 60.0  # between SIGTERM and SIGKILL: a run ends its step and writes a checkpoint
BUSY_S = 1.0  # between two looks at jobs that others have
GPU_USED_MIB = 100  # a run that takes less does not run on a GPU
CONSOLE, LOCK = "console.txt", ".comparing"


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


def claim(folder: Path) -> tuple[FolderLock | None, Holder | None]:
    """The lock of a job's caller, or who has the job; neither where that one ends just now.

    A run whose caller was killed, or that was started by hand, has its own lock alone.
    """
    lock = FolderLock(folder, LOCK)
    try:
        lock.acquire(patience_s=0.0)
    except FolderInUse:
        return None, lock.holder()
    holder = FolderLock(folder).holder()
    if holder is None:
        return lock, None
    lock.release()
    return None, holder


def left_to(job: Job, holder: Holder | str) -> str:
    """What is said of a job that another has."""
    return f"{job.name}: is another call's ({holder}); left to that one"


@dataclass
class _Running:
    job: Job
    lock: FolderLock
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
        done: whether a job need not run any more, because another caller has run it meanwhile.
        environment: of the processes; None: this process's.
        say: told about the choice, and about jobs of others.
    """

    def __init__(
        self,
        *,
        jobs: int | None,
        settled: Callable[[Job], bool] = lambda job: False,
        done: Callable[[Job], bool] = lambda job: False,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        if jobs is not None and jobs < 1:
            raise ValueError(f"jobs is {jobs}; at least one runs at a time (or auto)")
        self.limit = jobs
        self.settled, self.done = settled, done
        self.environment = dict(os.environ if environment is None else environment)
        self.say = say
        self.waiting: list[Job] = []
        self._running: list[_Running] = []
        self._busy: dict[Path, Holder] = {}  # folders that others had at the last look
        self._looked = 0.0
        self._gpus_before: list[float] = []
        self._num_gpus = 0

    def run(self, jobs: Sequence[Job], on_end: Callable[[End], None]) -> list[End]:
        """on_end: told of each end as it comes. Returns all ends, in their order in time.

        Stopped, by SIGINT, SIGTERM or SIGHUP, or whatever on_end raises: after all processes are stopped.
        """
        self.waiting, ends = list(jobs), []
        self._gpus_before = machine.gpus_free_mib() if jobs else []
        self._num_gpus = len(self._gpus_before)
        with stop_signals(at_once=False):
            try:
                while self.waiting or self._running:
                    # Start what fits.
                    check_stop()
                    while len(self._running) < (self.limit or 1) and (taken := self._take()):
                        self._start(*taken)
                    # Look at all.
                    time.sleep(POLL_S)
                    for running in self._running:
                        running.look(self._gpus_before if self.limit is None else None)
                    self._choose_limit()
                    # Deal with ends.
                    for running in [each for each in self._running if each.process.poll() is not None]:
                        self._running.remove(running)
                        seconds = time.monotonic() - running.started
                        ends.append(End(running.job, running.process.returncode, seconds, running.peak_mib))
                        on_end(ends[-1])
                        running.lock.release()
            finally:
                self.stop()
        return ends

    @property
    def left(self) -> int:
        """How many jobs have not ended, those of others among them."""
        return len(self.waiting) + len(self._running)

    def _take(self) -> tuple[Job, FolderLock] | None:
        """The first job that nobody else has, with its lock; None: there is none now."""
        if len(self._busy) == len(self.waiting) and time.monotonic() - self._looked < BUSY_S:
            return None
        # Ask for each.
        before, self._busy, self._looked = self._busy, {}, time.monotonic()
        for job in list(self.waiting):
            lock, holder = claim(job.folder)
            if lock is not None:
                self.waiting.remove(job)
                if not self.done(job):
                    return job, lock
                self.say(f"{job.name}: another call has run it")
                lock.release()
            # Somebody has it.
            if holder is not None:
                self._busy[job.folder] = holder
                if job.folder not in before:
                    self.say(left_to(job, holder))
        return None

    def _start(self, job: Job, lock: FolderLock) -> None:
        job.folder.mkdir(parents=True, exist_ok=True)
        environment, gpu = dict(self.environment), None
        if self._num_gpus > 1:  # the one with the fewest runs
            taken = [running.gpu for running in self._running]
            gpu = min(range(self._num_gpus), key=taken.count)
            visible = [word for word in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
            environment["CUDA_VISIBLE_DEVICES"] = visible[gpu] if visible else str(gpu)
        with (job.folder / CONSOLE).open("a") as console:
            process = subprocess.Popen(
                job.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process, which stops the others
            )
        now = time.monotonic()
        self._running.append(_Running(job, lock, process, now, gpu, looked=now))

    def _choose_limit(self) -> None:
        """From the first job, once it has shown what memory it takes."""
        if self.limit is not None or not self._running:
            return
        # Has it settled?
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
        # What each resource allows.
        limits = {
            f"{cores} cores": cores,
            f"{first.peak_mib:.0f} MiB each": 1 + machine.more_runs(free, first.peak_mib),
        }
        if first.gpu_mib > GPU_USED_MIB:
            fitting = sum(int(machine.SHARE * free / first.gpu_mib) for free in self._gpus_before)
            limits[f"{first.gpu_mib:.0f} MiB of a GPU each"] = fitting
        self.limit = max(1, min(limits.values()))
        self.say(f"runs at a time: {self.limit} ({', '.join(f'{why}: {n}' for why, n in limits.items())})")

    def stop(self) -> None:
        """SIGTERM, which a training answers with a checkpoint; then SIGKILL to whatever is left, workers too."""
        for running in self._running:
            running.process.terminate()
        until = time.monotonic() + STOP_S
        while any(running.process.poll() is None for running in self._running) and time.monotonic() < until:
            time.sleep(POLL_S)
        for running in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.process.pid, signal.SIGKILL)
            running.process.wait()
            running.lock.release()
        self._running = []
