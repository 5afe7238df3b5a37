"""Talk between the processes of a job.

Source: the interface and behaviour of Detectron2's `utils/comm.py`. With one process (or without a process group) every
function is a no-op that returns what a job of one process would see. Misuse raises AssertionError, as there.
Deviations: none known.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

Group = dist.ProcessGroup | None

_LOCAL_PROCESS_GROUP: dist.ProcessGroup | None = None


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if _initialized() else 1


def get_rank() -> int:
    return dist.get_rank() if _initialized() else 0


def is_main_process() -> bool:
    return get_rank() == 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Make the group of this machine's ranks. `launch` calls it; whoever starts processes otherwise must, on all ranks.

    num_workers_per_machine: processes per machine; must divide the world size.
    """
    global _LOCAL_PROCESS_GROUP
    assert _LOCAL_PROCESS_GROUP is None, "the local process group exists already"
    world_size = get_world_size()
    assert world_size % num_workers_per_machine == 0, (
        f"{world_size} processes cannot be {num_workers_per_machine} on every machine"
    )
    for first in range(0, world_size, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group: Any = dist.new_group(ranks)  # a collective call: every rank makes every group
        if get_rank() in ranks:
            _LOCAL_PROCESS_GROUP = group


def get_local_process_group() -> dist.ProcessGroup:
    """The group of the ranks on this machine."""
    assert _LOCAL_PROCESS_GROUP is not None, (
        "there is no local process group: start the processes with `launch()`, or call "
        "`comm.create_local_process_group(num_workers_per_machine)` after `init_process_group()`"
    )
    return _LOCAL_PROCESS_GROUP


def get_local_rank() -> int:
    """Rank within this machine."""
    return dist.get_rank(group=get_local_process_group()) if _initialized() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _initialized() else 1


def synchronize() -> None:
    """Wait until every process is here."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])  # NCCL warns without its device
    else:
        dist.barrier()


@functools.lru_cache
def _get_global_gloo_group() -> Any:
    """All ranks, on gloo: pickled objects need not travel through GPU memory."""
    return dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD


def _group_size(group: Group) -> int:
    return dist.get_world_size(group) if _initialized() else 1


def all_gather(data: object, group: Group = None) -> list[Any]:
    """Every rank's `data` (anything that pickles), in order of rank, on every rank."""
    if get_world_size() == 1:
        return [data]
    group = _get_global_gloo_group() if group is None else group
    if _group_size(group) == 1:
        return [data]
    gathered: list[Any] = [None] * _group_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: object, dst: int = 0, group: Group = None) -> list[Any]:
    """Every rank's `data` (anything that pickles), in order of rank, on rank `dst`; an empty list on the others."""
    if get_world_size() == 1:
        return [data]
    group = _get_global_gloo_group() if group is None else group
    if _group_size(group) == 1:
        return [data]
    gathered: list[Any] | None = [None] * _group_size(group) if dist.get_rank(group) == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def shared_random_seed() -> int:
    """Rank 0's draw from numpy's global generator, on every rank. All ranks must call it."""
    return all_gather(np.random.randint(2**31))[0]


def reduce_dict(input_dict: dict[str, torch.Tensor], average: bool = True) -> dict[str, torch.Tensor]:
    """Mean (or sum) over ranks of a dict of scalar tensors, on rank 0; other ranks get unspecified values."""
    world_size = get_world_size()
    if world_size < 2:
        return input_dict
    with torch.no_grad():
        names = sorted(input_dict)  # the order of insertion may differ between ranks
        values = torch.stack([input_dict[name] for name in names])
        dist.reduce(values, dst=0)
        if average and is_main_process():
            values /= world_size
        return dict(zip(names, values, strict=True))
