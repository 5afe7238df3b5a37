"""Real jobs of several processes on CPU (gloo), started by either engine's launch.

Oracles: closed forms, and Detectron2 0.6 (itself, or its records in goldens/running.json).
"""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn

from scaleeq.engine.parallel import wrap_ddp
from tests.engine.record_goldens_running import PATH, two_processes
from tests.engine.running_distributed import run_machine_rank
from tests.engine.running_sides import has_detectron2, load_side


@pytest.mark.parametrize(
    "side",
    [
        "standalone",
        pytest.param(
            "detectron2", marks=pytest.mark.skipif(not has_detectron2(), reason="Detectron2 is not installed")
        ),
    ],
)
def test_two_processes(side: str, tmp_path: Path) -> None:
    """One job (starting it is what takes time); both engines see the same, and what is right."""
    records = two_processes(side, tmp_path)
    _check_communication(records)
    _check_seed_and_files_depend_on_the_rank(records)
    _check_results_on_rank_0_only(records)
    _check_ddp_trains_on_the_whole_batch(records)
    assert records == json.loads(PATH.read_text())["two_processes"]


def _check_communication(records: list[Any]) -> None:
    first, second = (record["communication"] for record in records)
    assert (first["ranks"], second["ranks"]) == ([0, 2, 0, 2], [1, 2, 1, 2])
    assert first["backend"] == "gloo"
    assert first["all_gather"] == second["all_gather"] == [{"rank": 0}, {"rank": 1}]
    assert (first["gather"], second["gather"]) == ([["from 0", "from 1"], []], [[], [0, 1]])
    assert first["reduced"] == [{"a": 1.5, "b": 5.0}, {"a": 3.0, "b": 10.0}]
    assert all(record["barrier"] for record in records)


def _check_seed_and_files_depend_on_the_rank(records: list[Any]) -> None:
    first, second = (record["setup"] for record in records)
    assert first[0][:3] != second[0][:3]  # seed + rank
    assert first[1] == second[1]  # the shared seed is rank 0's draw
    assert (first[2], second[2]) == (True, False)  # only rank 0 prints
    assert first[3] == second[3] == ["config.yaml", "log.txt", "log.txt.rank1"]


def _check_results_on_rank_0_only(records: list[Any]) -> None:
    first, second = (record["inference"] for record in records)
    gathered = [[0, 1], [10, 11, 12]]
    assert first["one"] == {"gathered": gathered}
    assert first["several"] == {"gathered": gathered, "everywhere": 0}
    assert second["one"] == second["several"] == {}


def _check_ddp_trains_on_the_whole_batch(records: list[Any]) -> None:
    model = nn.Linear(2, 1, dtype=torch.float64)
    nn.init.constant_(model.weight, 1.0)
    nn.init.constant_(model.bias, 0.0)
    for _ in range(2):
        loss = model(torch.arange(4, dtype=torch.float64).reshape(2, 2)).square().mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.data -= 0.125 * gradient
    expected = [parameter.tolist() for parameter in model.parameters()]
    for rank, record in enumerate(records):
        name, weights, evaluated, latest, mixed_devices = record["training"]
        assert name == "DistributedDataParallel"
        torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-12)
        assert evaluated == [0, 2]
        assert latest == ({"score": [1.0, 2]} if rank == 0 else {})
        assert mixed_devices == "ValueError"


def test_wrap_ddp_of_one_process_is_the_model() -> None:
    model = nn.Linear(1, 1)
    assert wrap_ddp(model) is model


@pytest.mark.slow
def test_two_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    launch = load_side("standalone").launch
    jobs = [
        Thread(
            target=launch,
            args=(run_machine_rank, 1),
            kwargs={
                "num_machines": 2,
                "machine_rank": rank,
                "dist_url": f"file://{tmp_path}/rendezvous",
                "args": ("standalone", str(tmp_path)),
            },
        )
        for rank in range(2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    records = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert records == [[rank, 2, 0, 1, ["x", "x"], ["here"]] for rank in range(2)]
