"""A job of two processes: what each rank samples and normalizes, through every engine that is there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from scaleeq.engine.contract import load_names
from scaleeq.engine.standalone import comm, launch
from tests.engine.running_sides import has_detectron2, outcome
from tests.engine.static_scenarios import as_data

MOMENTUM = 0.25
EPS = 1e-3


def two_processes(folder: Path) -> list[Any]:
    """Per rank: side -> record."""
    with patch.dict(os.environ, CUDA_VISIBLE_DEVICES=""):  # the children see it: gloo, also where a GPU is
        launch(_run_rank, 2, dist_url=f"file://{folder}/rendezvous", args=(str(folder),))
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def inputs(rank: int, num_images: int) -> Tensor:
    return torch.randn(num_images, 2, 3, 4, generator=torch.Generator().manual_seed(rank)) * (rank + 1) + 0.5


def num_images(mode: str, rank: int) -> int:
    """Different batches where the mode allows it."""
    return 2 if mode == "" else 1 + 2 * rank


def _run_rank(folder: str) -> None:
    sides = ("standalone", "detectron2") if has_detectron2() else ("standalone",)
    records = {side: _record(SimpleNamespace(**load_names(side))) for side in sides}  # type: ignore[arg-type]
    Path(folder, f"rank{comm.get_rank()}.json").write_text(json.dumps(records))


def _record(engine: SimpleNamespace) -> Any:
    rank = engine.comm.get_rank()
    norm = {mode: _normalize(engine, mode, inputs(rank, num_images(mode, rank))) for mode in ("", "N")}
    return {
        "indices": list(engine.InferenceSampler(5)),
        "norm": norm,
        "empty on rank 1": _normalize(engine, "N", inputs(rank, 2 - 2 * rank)),
        "empty everywhere": _normalize(engine, "N", inputs(rank, 0)),
        "empty refused": outcome(_normalize, engine, "", inputs(rank, 0)),
        "half": _normalize(engine, "", inputs(rank, 2).half()),
        "eval": as_data(engine.NaiveSyncBatchNorm(2).eval()(inputs(rank, 2))),
    }


def _normalize(engine: SimpleNamespace, mode: str, x: Tensor) -> list[Any]:
    norm = engine.NaiveSyncBatchNorm(2, stats_mode=mode, momentum=MOMENTUM, eps=EPS)
    x.requires_grad_()
    output = norm(x)
    (output.float() ** 3).sum().backward()
    return [as_data(t) for t in (output, norm.running_mean, norm.running_var, x.grad, norm.weight.grad)]


def closed_form(mode: str) -> SimpleNamespace:
    """What the definition says, in float64: moments over both ranks, processes (mode "") or images ("N") equal."""
    batches = [inputs(rank, num_images(mode, rank)).double() for rank in range(2)]
    weights = [1.0 if mode == "" else float(len(batch)) for batch in batches]
    mean, square = (
        sum(w * (batch**p).mean(dim=(0, 2, 3)) for w, batch in zip(weights, batches, strict=True)) / sum(weights)
        for p in (1, 2)
    )
    var = square - mean**2
    shape = (1, -1, 1, 1)
    outputs = [(batch - mean.reshape(shape)) / (var.reshape(shape) + EPS).sqrt() for batch in batches]
    return SimpleNamespace(outputs=outputs, running_mean=MOMENTUM * mean, running_var=1 - MOMENTUM + MOMENTUM * var)
