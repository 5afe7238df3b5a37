"""Where the runs of a comparison run: on this machine, on the nodes of a Ray cluster, or as jobs of SLURM.

All write the same folders: a run is the same command in each. What an executor adds is who starts it, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from scaleeq.choices import one_of

from .jobs import End, Job, Pool
from .on_ray import RayCluster
from .on_slurm import SlurmCluster
from .remote import Cluster, Remote

LOCAL, RAY, SLURM = NAMES = ("local", "ray", "slurm")


class Executor(Protocol):
    """Runs jobs, each once, as many at a time as fit.

    limit: how many run at a time, where that is known; for the time that is left.
    """

    limit: int | None

    @property
    def left(self) -> int:
        """How many jobs have not ended."""

    def run(self, jobs: Sequence[Job], on_end: Callable[[End], None]) -> list[End]:
        """All ends, in their order in time; on_end is told of each as it comes. Stopped: after all runs are stopped."""


@dataclass(frozen=True)
class Where:
    """Which executor, and what each run gets there.

    name: of NAMES. jobs: at a time; None: as many as fit. cpus, gpus: of each run; gpus None: 1 where a Ray cluster has
    GPUs, else 0; a part of one is for Ray alone. ray_address: of a cluster; "": $RAY_ADDRESS, or one that is started
    here. slurm: submitit's parameters, such as partition.
    """

    name: str = LOCAL
    jobs: int | None = None
    cpus: int = 1
    gpus: float | None = None
    ray_address: str = ""
    slurm: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of(self.name, NAMES, key="--executor")


HERE = Where()


def build_executor(
    where: Where,
    *,
    settled: Callable[[Job], bool],
    finished: str,
    environment: Mapping[str, str],
    logs: Path,
    say: Callable[[str], None],
) -> Executor:
    """The executor that `where` describes.

    settled: whether a job has shown what memory it takes. finished: the file in a job's folder that says that it need
        not run any more. environment: of the runs. logs: a folder for those of SLURM.

    ImportError: a package is not installed, naming the extra. ValueError: `where` does not fit the machine.
    """
    if where.name == LOCAL:
        return Pool(
            jobs=where.jobs,
            settled=settled,
            done=lambda job: (job.folder / finished).is_file(),
            environment=environment,
            say=say,
        )
    cluster: Cluster = (
        RayCluster(where.ray_address, jobs=where.jobs, cpus=where.cpus, gpus=where.gpus)
        if where.name == RAY
        else SlurmCluster(logs, jobs=where.jobs, cpus=where.cpus, gpus=where.gpus, parameters=where.slurm)
    )
    return Remote(cluster, environment=environment, finished=finished, say=say)
