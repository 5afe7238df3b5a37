"""Data-parallel wrapping, above both engines.

Source: torch's DistributedDataParallel. Detectron2's own wrapper names a GPU unless told otherwise, so it fails on CPU;
this one names the device that the parameters are on, and none for CPU (gloo).
"""

from __future__ import annotations

import inspect
from typing import Any

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
