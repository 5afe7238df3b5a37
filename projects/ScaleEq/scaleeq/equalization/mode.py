"""The state in which branches are measured: batch statistics, no randomness, and everything restored afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

MORE_VALUES = (
    "two images per forward pass or more (SOLVER.IMS_PER_BATCH counts those of all processes and of all "
    "SOLVER.ACCUMULATE passes), or MODEL.SEM_SEG_HEAD.NORM 'GN' or 'LN' (or, with several processes, 'SyncBN')"
)


@contextmanager
def measuring(model: nn.Module, *, written: Iterable[torch.Tensor] = ()) -> Iterator[None]:
    """Batch norms that would train use batch statistics; dropout, drop path and autocast are off.

    Afterwards the modes of all modules, all buffers but those `written`, and the random states of python, numpy and
    torch are bit-identical.
    """
    modes = {module: module.training for module in model.modules()}
    kept = {id(buffer) for buffer in written}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if id(buffer) not in kept]
    states = (random.getstate(), np.random.get_state())
    devices = {p.device.index for p in model.parameters() if p.is_cuda}
    model.train()  # a model may keep frozen batch norms in eval mode: they stay so
    batch_norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    model.eval()
    for norm in batch_norms:
        norm.training = True
    try:
        with torch.random.fork_rng(sorted(devices)), torch.autocast("cuda" if devices else "cpu", enabled=False):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def with_batch_statistics(parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """ValueError where a batch norm inside `parts` (name -> module) that is in training gets one value per channel.

    Then it has no batch statistics, and what it hands on has a scale that says nothing about other batches.
    """

    def check(name: str, norm: nn.Module) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def look(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            values = inputs[0].numel() // inputs[0].shape[1]
            if norm.training and values == 1 and not (counts_all_ranks(norm) and dist.get_world_size() > 1):
                raise ValueError(
                    f"{name} is a batch norm of an equalized fusion and gets one value per channel, a map of one pixel "
                    f"of one image: its branch has no scale to measure. Use {MORE_VALUES}"
                )

        return look

    with ExitStack() as hooks:
        for part, module in parts.items():
            for name, norm in module.named_modules():
                if isinstance(norm, _BatchNorm):
                    hooks.enter_context(norm.register_forward_pre_hook(check(f"{part}.{name}", norm)))
        yield


def counts_all_ranks(norm: nn.Module) -> bool:
    """Whether a norm's batch is that of all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from scaleeq.engine import NaiveSyncBatchNorm  # here: measuring a model of one process needs no engine

    return isinstance(norm, (NaiveSyncBatchNorm, nn.SyncBatchNorm))
