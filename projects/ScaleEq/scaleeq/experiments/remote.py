"""Runs on other machines: what is done there, and who waits here for its end.

There, a run is claimed by its folder's locks, as a second call on this machine would claim it, and started by a Pool of
one. Here, `Remote` hands runs to a cluster, and hands those that were lost with their machine to it again: their
command has --resume. All machines see the same files under the same paths, and have the same Python.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from scaleeq.console import RunFailed
from scaleeq.extras import require
from scaleeq.folder_lock import FolderLock
from scaleeq.slurm import without_step
from scaleeq.stopping import check_stop, stop_signals

from .jobs import LOCK, End, Job, Pool, claim, left_to

MOST_LOSSES = 5  # of one run, after which it counts as failed
LOST = 137  # its exit status then: as after SIGKILL
BUSY_S = 5.0  # between two looks at a run that others have
# Variables of this process that decide what a run computes and reads; all others are the node's own.
PASSED = ("SCALEEQ_", "DETECTRON2_", "OMP_", "MKL_", "KMP_", "PYTHONPATH", "TORCH_HOME", "HF_HOME")


class Lost(Exception):
    """A run ended without an answer: its machine, or the process that watched it, is gone. The message says why."""


@dataclass(frozen=True)
class Answer:
    """What became of a run elsewhere, which `host` tells.

    end: None: it was not begun, because `holder` has it, because of an `error`, or, without either, because another
    call has run it.
    """

    host: str
    end: End | None = None
    holder: str = ""
    error: str = ""


class RemoteRun:
    """A run as a function without arguments, which can be pickled. Called on the machine that is to run it.

    finished: the file in the job's folder that says that it need not run any more.
    """

    def __init__(self, job: Job, *, environment: Mapping[str, str], finished: str, folder: Path) -> None:
        self.job, self.finished = job, finished
        self.folder = folder  # from which the paths count
        self.environment = {name: value for name, value in environment.items() if name.startswith(PASSED)}
        self.pool: Pool | None = None

    def __call__(self) -> Answer:
        host = socket.gethostname()
        try:
            os.chdir(self.folder)
            lock, holder = claim(self.job.folder)
        except OSError as error:
            return Answer(host, error=f"{error}; all machines need the same files under the same paths")
        if lock is None:
            return Answer(host, holder=str(holder or "another call, just now"))
        try:
            return self._run(host)
        except OSError as error:
            return Answer(host, error=str(error))
        finally:
            lock.release()

    def checkpoint(self) -> object:
        """For submitit, which asks for it when the job's time is over, and requeues what it gets."""
        if self.pool is not None:
            self.pool.stop()
        again = RemoteRun(self.job, environment=self.environment, finished=self.finished, folder=self.folder)
        return require("submitit").helpers.DelayedSubmission(again)

    def _run(self, host: str) -> Answer:
        if (self.job.folder / self.finished).is_file():
            return Answer(host)
        self.pool = Pool(jobs=1, environment={**without_step(os.environ), **self.environment}, say=lambda text: None)
        [end] = self.pool.run([self.job], lambda end: None)
        return Answer(host, end)


class Cluster(Protocol):
    """Takes runs and gives their answers. poll_s: between two looks. window: most runs that it is given at once."""

    poll_s: float
    window: int | None

    def start(self, num_jobs: int, say: Callable[[str], None]) -> int:
        """Reach it. How many runs it does at a time, as far as that can be said. ValueError: it cannot do any."""

    def submit(self, runs: Sequence[RemoteRun]) -> list[object]:
        """A handle of each."""

    def ended(self, handle: object) -> bool:
        """Whether there is an answer, or never will be."""

    def answer(self, handle: object) -> Answer:
        """Of a run that has ended. Lost: there is none."""

    def stop(self, handles: Sequence[object]) -> None:
        """End these runs, with time for a checkpoint, and leave the cluster."""


class Remote:
    """The executor of runs on a cluster."""

    def __init__(
        self, cluster: Cluster, *, environment: Mapping[str, str], finished: str, say: Callable[[str], None]
    ) -> None:
        self.cluster, self.say = cluster, say
        self.environment, self.finished = environment, finished
        self.limit: int | None = None
        self.waiting: list[Job] = []
        self._submitted: list[tuple[Job, object]] = []
        self._losses: dict[Path, int] = {}
        self._busy_until: dict[Path, float] = {}  # jobs that others had, and when they are looked at again

    @property
    def left(self) -> int:
        return len(self.waiting) + len(self._submitted)

    def run(self, jobs: Sequence[Job], on_end: Callable[[End], None]) -> list[End]:
        self.waiting, ends = list(jobs), []
        if not jobs:
            return []
        with stop_signals(at_once=False):
            try:
                self.limit = self.cluster.start(len(jobs), self.say)
                while self.left:
                    check_stop()
                    self._submit()
                    time.sleep(self.cluster.poll_s)
                    for end in self._ended():
                        ends.append(end)
                        on_end(end)
            finally:
                self.cluster.stop([handle for _, handle in self._submitted])
        return ends

    def _submit(self) -> None:
        """What the cluster may have now, but for jobs that others have."""
        room = len(self.waiting) if self.cluster.window is None else self.cluster.window - len(self._submitted)
        taken: list[Job] = []
        for job in list(self.waiting):
            if len(taken) < room and self._is_free(job):
                self.waiting.remove(job)
                if (job.folder / self.finished).is_file():
                    self.say(f"{job.name}: another call has run it")
                else:
                    taken.append(job)
        if taken:
            folder = Path.cwd()
            runs = [
                RemoteRun(job, environment=self.environment, finished=self.finished, folder=folder) for job in taken
            ]
            self._submitted += zip(taken, self.cluster.submit(runs), strict=True)

    def _is_free(self, job: Job) -> bool:
        """Whether nobody is seen to have it; the machine that is to run it looks again."""
        if time.monotonic() < self._busy_until.get(job.folder, 0.0):
            return False
        holder = FolderLock(job.folder, LOCK).holder() or FolderLock(job.folder).holder()
        if holder is not None:
            self._leave(job, str(holder))
        return holder is None

    def _leave(self, job: Job, holder: str) -> None:
        if job.folder not in self._busy_until:
            self.say(left_to(job, holder))
        self._busy_until[job.folder] = time.monotonic() + BUSY_S

    def _ended(self) -> list[End]:
        """Ends since the last look. What was lost, or is another's, waits again. RunFailed: a machine cannot run it."""
        ends = []
        for job, handle in [each for each in self._submitted if self.cluster.ended(each[1])]:
            self._submitted.remove((job, handle))
            try:
                answer = self.cluster.answer(handle)
            except Lost as loss:
                ends += self._lost(job, str(loss))
                continue
            # Did it run?
            if answer.error:
                raise RunFailed(f"{job.name} on {answer.host}: {answer.error}")
            if answer.end is not None:
                ends.append(answer.end)
            elif answer.holder:
                self._leave(job, answer.holder)
                self.waiting.append(job)
            else:
                self.say(f"{job.name}: another call has run it")
        return ends

    def _lost(self, job: Job, why: str) -> list[End]:
        """The job waits again, unless that has happened too often."""
        self._losses[job.folder] = self._losses.get(job.folder, 0) + 1
        if self._losses[job.folder] > MOST_LOSSES:
            self.say(f"{job.name}: lost {self._losses[job.folder]} times ({why}); given up")
            return [End(job, LOST, 0.0, None)]
        self.say(f"{job.name}: lost ({why}); it goes on elsewhere from its last checkpoint")
        self.waiting.insert(0, job)
        return []
