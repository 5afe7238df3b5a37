"""One of two processes that equalize and train a model together; run by test_any_model_ddp.py with rank and folder."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from scaleeq import equalize
from tests.equalization.any_net import make_batches, make_net
from tests.two_ranks import train_on

RATE = 0.05


def make_model() -> nn.Module:
    """Without batch norms, whose statistics would be of each process's own images."""
    net = make_net()
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(1, child.num_features).double())
    return net


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = make_model()
    report = equalize(model, make_batches(4)[rank::2], num_images=-1)
    train_on(nn.parallel.DistributedDataParallel(model), [x[rank::2] for x in make_batches(4)], RATE)
    torch.save({"model": model.state_dict(), "report": report.to_dict()}, folder / f"rank{rank}.pth")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
