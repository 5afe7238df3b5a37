"""Runs as jobs of SLURM, through submitit: one array, whose jobs are requeued when their time is over.

Source: github.com/facebookincubator/submitit. SLURM sends SIGUSR1 before a job's time is over, or where it is preempted
with that signal; the run then writes a checkpoint, the job is put into the queue again, and goes on with --resume. A
cluster that requeues preempted jobs itself does the same. submitit's own executor for one machine, the parameter
cluster=local, stands for SLURM where there is none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from scaleeq.choices import one_of
from scaleeq.extras import require

from .jobs import STOP_S, End
from .remote import Answer, Lost, RemoteRun

SIGNAL = "USR1"  # submitit's own default is USR2
CLUSTERS = ("slurm", "local")
MINUTES = 24 * 60  # a job's time, where the parameters do not say another; a longer run is requeued
MOST_TIMEOUTS = 1000  # after which submitit does not requeue any more
CANCELLED = 143  # its exit status: as after SIGTERM
LOOK_S = 60.0  # between two questions to SLURM about jobs without an answer


class SlurmCluster:
    """folder: gets what submitit writes: scripts, logs, answers. parameters: submitit's, by their names for SLURM."""

    poll_s = 1.0

    def __init__(
        self, folder: Path, *, jobs: int | None, cpus: int, gpus: float | None, parameters: Mapping[str, object]
    ) -> None:
        if gpus is not None and gpus != int(gpus):
            raise ValueError(f"--gpus-per-run is {gpus:g}; SLURM gives whole GPUs (Ray gives parts of one)")
        self.folder = folder
        self.parameters = {"timeout_min": MINUTES, "cpus_per_task": cpus, "gpus_per_node": int(gpus or 0), **parameters}
        self.cluster = str(self.parameters.pop("cluster", CLUSTERS[0]))
        one_of(self.cluster, CLUSTERS, key="--slurm cluster")
        self.jobs = jobs
        self.window = (jobs or 1) if self.cluster == "local" else None
        os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", SIGNAL)  # read where submitit is imported, here and in the job
        self._submitit: ModuleType = require("submitit", why="--executor slurm: ")
        self._executor: Any = None
        self._looked = time.monotonic()
        self._say: Callable[[str], None] = print

    def start(self, num_jobs: int, say: Callable[[str], None]) -> int:
        self._say = say
        try:
            options = {"slurm_max_num_timeout": MOST_TIMEOUTS, "local_max_num_timeout": MOST_TIMEOUTS}
            self._executor = self._submitit.AutoExecutor(self.folder, cluster=self.cluster, **options)
        except RuntimeError as error:
            raise ValueError(
                f"--executor slurm: {error} Start the command on a machine of the cluster from which sbatch works"
            ) from error
        self._executor.update_parameters(**self._named())
        return self.window or self.jobs or num_jobs

    def _named(self) -> dict[str, object]:
        """The parameters with submitit's names. ValueError: there is no such one."""
        shared = self._submitit.AutoExecutor._valid_parameters()
        known = sorted(shared | self._submitit.SlurmExecutor._valid_parameters())
        given = {"name": self.folder.parent.name, "slurm_array_parallelism": self.jobs or 256}
        for name, value in self.parameters.items():
            one_of(name, known, key="--slurm")
            given[name if name in shared else f"slurm_{name}"] = value
        return given

    def submit(self, runs: Sequence[RemoteRun]) -> list[Any]:
        handles = self._executor.submit_array(list(runs))
        self._say(f"{self.cluster}: job {', '.join(handle.job_id for handle in handles)}; logs in {self.folder}")
        return handles

    def ended(self, handle: Any) -> bool:
        force = time.monotonic() - self._looked > LOOK_S
        if force:
            self._looked = time.monotonic()
        return handle.done(force_check=force)

    def answer(self, handle: Any) -> Answer:
        try:
            return handle.result()
        except self._submitit.core.utils.UncompletedJobError as error:
            if str(handle.state).startswith("CANCELLED"):  # by its user, who does not want it again
                return Answer("", End(handle.submission().function.job, CANCELLED, 0.0, None))
            raise Lost(f"job {handle.job_id} is {handle.state}, its log is {handle.paths.stderr}") from error

    def stop(self, handles: Sequence[Any]) -> None:
        for handle in handles:
            handle.cancel(check=False)
        until = time.monotonic() + STOP_S
        while time.monotonic() < until and not all(handle.done(force_check=True) for handle in handles):
            time.sleep(self.poll_s)
