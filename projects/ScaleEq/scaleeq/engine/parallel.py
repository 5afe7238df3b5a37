"""Data-parallel wrapping, above both engines.

Source: torch's DistributedDataParallel. Detectron2's own wrapper names a GPU unless told otherwise, so it fails on CPU;
this one names the device that the parameters are on, and none for CPU (gloo).
"""

from __future__ import annotations

import gc
import inspect
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def wrap_ddp(model: nn.Module, *, broadcast_buffers: bool = False, find_unused_parameters: bool = False) -> nn.Module:
    """The model itself in a job of one process, else wrapped so that gradients are averaged over processes.

    model: on its final device. ValueError where its parameters are on several devices.
    broadcast_buffers: copy rank 0's buffers (BN's running statistics) before each forward; Detectron2's does not.
    find_unused_parameters: for models whose forward skips parameters.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return model
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        names = sorted(map(str, devices))
        raise ValueError(f"the model's parameters are on {names}; move it to one device with model.to(...) first")
    on_gpu = [device for device in devices if device.type == "cuda"]
    options: dict[str, Any] = {
        "device_ids": on_gpu or None,
        "find_unused_parameters": find_unused_parameters,
        _buffer_option(): broadcast_buffers,
    }
    return DistributedDataParallel(model, **options)


def _buffer_option() -> str:
    """The name of DistributedDataParallel's option, which newer versions of torch renamed."""
    known = inspect.signature(DistributedDataParallel).parameters
    return "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"


def largest_over_ranks(value: int, comm: ModuleType) -> int:
    """The largest of all processes' values, on each of them: eight bytes between hosts' memories, no GPU waits.

    comm: of either engine. To be called by all processes at the same point.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=comm._get_global_gloo_group())
    return int(largest)


def leave_job(comm: ModuleType) -> None:
    """Destroy the process groups at the end of a job of several processes; nothing for one process.

    comm: of either engine. It keeps references to groups, and so do models wrapped for the job; torch aborts a process
    ("terminate called without an active exception") that still has one of a gloo group when it exits.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    comm._get_global_gloo_group.cache_clear()
    comm.create_local_process_group.cache_clear()
    comm._LOCAL_PROCESS_GROUP = None  # type: ignore[attr-defined]
    dist.destroy_process_group()
    gc.collect()
