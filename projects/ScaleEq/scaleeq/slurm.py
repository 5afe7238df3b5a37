"""What SLURM's variables say to a command that `srun` has started once a task: which part of one job it is.

`srun -n 8 scaleeq train C` starts eight processes. They are one training, as torchrun's are: the variables of srun are
read as those of torchrun. Source: srun(1), output environment variables; torch.distributed's env://. Needs the
standard library alone. Tested with the variables that srun sets, on no SLURM.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, MutableMapping

TASKS = "SLURM_STEP_NUM_TASKS"  # set by srun alone: a batch script has SLURM_NTASKS, but is one process
PORTS = range(20000, 30000)


def has_started_several(environ: Mapping[str, str]) -> bool:
    """Whether srun has started several processes of a command, which no torchrun stands between."""
    return environ.get(TASKS, "1") != "1" and "TORCHELASTIC_RUN_ID" not in environ


def is_first_here(environ: Mapping[str, str]) -> bool:
    """Whether this process is the first, or the only one, that torchrun or srun has started on this machine."""
    of_srun = environ.get("SLURM_LOCALID", "0") if has_started_several(environ) else "0"
    return environ.get("LOCAL_RANK", of_srun) == "0"


def without_step(environ: Mapping[str, str]) -> dict[str, str]:
    """For a command that one of srun's processes starts by itself: it is no part of what srun has started."""
    return {name: value for name, value in environ.items() if name != TASKS}


def join_step(environ: MutableMapping[str, str], *, num_gpus: int, num_machines: int) -> None:
    """Set torchrun's variables from srun's, where srun has started several processes and they are not set.

    With --num-machines, a process a machine is what the user has asked for, and nothing is set.

    ValueError, or SystemExit in all processes but the first, so that it is told once: options or variables that
    contradict it.
    """
    if not has_started_several(environ) or "RANK" in environ or num_machines > 1:
        return
    try:
        variables = _torchrun_variables(environ, num_gpus)
    except ValueError:
        if environ.get("SLURM_PROCID", "0") == "0":
            raise
        sys.exit(2)
    environ.update({name: environ.get(name, value) for name, value in variables.items()})


def _torchrun_variables(environ: Mapping[str, str], num_gpus: int) -> dict[str, str]:
    tasks = environ[TASKS]
    if num_gpus > 1:
        raise ValueError(
            f"srun has started {tasks} processes: leave out --num-gpus, and give srun --ntasks-per-node; or start one "
            "process a machine, with srun --ntasks-per-node 1 and --num-machines, --machine-rank and --dist-url"
        )
    needed = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST", "SLURM_JOB_ID")
    if missing := [name for name in needed if not environ.get(name)]:
        raise ValueError(
            f"{TASKS} is {tasks}, as under srun, but {missing[0]} is not set: start with srun, or torchrun; for a job "
            f"of its own, unset {TASKS}"
        )
    each = _tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
    if len(set(each)) > 1:
        raise ValueError(
            f"srun has started {', '.join(map(str, each))} processes on the machines; all need as many: give srun "
            "--ntasks-per-node"
        )
    number = int(environ["SLURM_JOB_ID"]) * 10 + int(environ.get("SLURM_STEP_ID", "0"))
    return {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": tasks,
        "LOCAL_RANK": environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(each[0]),
        "MASTER_ADDR": "127.0.0.1" if len(each) == 1 else first_host(environ["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(PORTS[number % len(PORTS)]),
    }


def _tasks_per_node(text: str) -> list[int]:
    """Of each machine. text: as SLURM writes it, "8(x2),4" for 8, 8 and 4."""
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in groups for _ in range(int(times or 1))]


def first_host(names: str) -> str:
    """The first of a list of machines, as SLURM writes it: "gpu[07-09,12],login" begins with gpu07."""
    found = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\])?([^,\[]*)", names)
    return "".join(part or "" for part in found.groups()) if found else names
