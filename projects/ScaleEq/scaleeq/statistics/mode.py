"""The state in which branches are measured: batch statistics, no randomness, and everything restored afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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
