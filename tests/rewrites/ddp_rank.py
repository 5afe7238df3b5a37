"""One of two processes that train an accelerated model together; run by test_accelerate_ddp.py with rank and folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from scaleeq import accelerate
from tests.two_ranks import train_on

from .nets import ALWAYS, counting, image, made

STEPS, RATE = 4, 0.02


def make_model() -> nn.Module:
    """Without batch norms, whose statistics would be of each process's own images, and without dropout."""
    model = made()
    model.stem[1], model.deep[1] = (nn.GroupNorm(1, channels).double() for channels in (5, 6))
    model.decoder.drop.p = 0.0
    return model


def batches() -> list[torch.Tensor]:
    return [image(count=4) + step for step in range(STEPS)]


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = make_model()
    # Before the wrapper on one rank, and after it on the other: either is allowed.
    if rank == 0:
        accelerate(model, limit=ALWAYS)
    wrapped = nn.parallel.DistributedDataParallel(model)
    if rank == 1:
        accelerate(wrapped, limit=ALWAYS)
    with counting(pytest.MonkeyPatch()) as counts:
        train_on(wrapped, [x[rank::2] for x in batches()], RATE)
    torch.save({"model": model.state_dict(), "per_branch": len(counts)}, folder / f"rank{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
