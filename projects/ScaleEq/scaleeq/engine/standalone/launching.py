"""Start a function in one or many processes, on one or many machines.

Source: the interface and behaviour of Detectron2's `engine/launch.py`, which also runs on CPU: gloo where CUDA is not
available, NCCL where it is, one process per GPU. So on a machine with GPUs, more CPU processes than GPUs need an empty
CUDA_VISIBLE_DEVICES under either engine. Deviation: the process group is destroyed when the function returns (torch
warns otherwise).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..parallel import leave_job
from . import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


def _find_free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def launch(
    main_func: Callable[..., object],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Run `main_func(*args)` in `num_gpus_per_machine` processes of this machine; to be called on every machine.

    num_gpus_per_machine: processes per machine, GPUs or not. One process in all: a plain call in this process.
    dist_url: where rank 0 listens, "tcp://127.0.0.1:8686" for example; "auto" finds a free port (one machine only);
        None reads the environment's MASTER_ADDR and MASTER_PORT.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url='auto' finds a port of one machine; name rank 0's host and port instead"
        dist_url = f"tcp://127.0.0.1:{_find_free_port()}"
    if num_machines > 1 and dist_url is not None and dist_url.startswith("file://"):
        logging.getLogger(__name__).warning("file:// is not reliable between machines; prefer tcp://")
    mp.start_processes(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
        daemon=False,
    )


def _worker(
    local_rank: int,
    main_func: Callable[..., object],
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str | None,
    args: tuple,
    timeout: timedelta,
) -> None:
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        num_gpus = torch.cuda.device_count()
        assert num_gpus_per_machine <= num_gpus, f"{num_gpus_per_machine} processes, but {num_gpus} GPUs"
    dist.init_process_group(
        backend="NCCL" if has_gpu else "GLOO",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * num_gpus_per_machine + local_rank,
        timeout=timeout,
    )
    comm.create_local_process_group(num_gpus_per_machine)
    if has_gpu:
        torch.cuda.set_device(local_rank)
    comm.synchronize()
    main_func(*args)
    leave_job(comm)
