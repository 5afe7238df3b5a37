"""One rank of a job that trains GSTO-HRNet: run by `launch`, written to a file per rank."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
from torch import nn

import scaleeq.segmentor  # noqa: F401  (registers the model)
from scaleeq.engine import build_model, comm, load_config
from scaleeq.engine.parallel import leave_job, wrap_ddp

CONFIG = Path(__file__).parents[1] / "configs" / "cityscapes" / "gsto_hrnet_w48.yaml"
TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.TIMM.NAME", "hrnet_w18_small", "MODEL.TIMM.PRETRAINED", "False"),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "8", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5"),
]


def make_batch(num_images: int, seed: int = 0, size: tuple[int, int] = (64, 96)) -> list[dict]:
    """Random images with random labels of five classes."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "sem_seg": torch.randint(0, 5, size, generator=generator),
            "height": size[0],
            "width": size[1],
        }
        for _ in range(num_images)
    ]


def train(model: nn.Module, batch: list[dict]) -> tuple[float, float]:
    """One backward pass; the loss, and the norm of all gradients together."""
    loss = sum(model(batch).values())
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters()]
    return float(loss.detach()), float(torch.cat(gradients).norm())


def run_rank(folder: str) -> None:
    """Two forward and backward passes of one image a rank, without a search for unused parameters."""
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, TINY))
    kinds = Counter(type(module).__name__ for module in model.modules() if "BatchNorm" in type(module).__name__)
    wrapped = wrap_ddp(model)
    numbers = [train(wrapped, make_batch(2)[comm.get_rank() :][:1]) for _ in range(2)]
    record = {"norms": kinds, "wrapper": type(wrapped).__name__, "numbers": numbers}
    (Path(folder) / f"rank{comm.get_rank()}.json").write_text(json.dumps(record))
    del wrapped, model
    leave_job(comm)
