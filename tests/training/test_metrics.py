"""What two ranks tell each other of a step. Oracle: the numbers that each of them was given."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from scaleeq.training.metrics import gather_metrics
from scaleeq.training.step import TrainingStep


class Constant(torch.nn.Linear):
    def forward(self, batch):
        return {"loss_a": self.weight.sum() * 0.0}


def tell(rank, folder, cases):
    """For each case, write what gather_metrics gave this rank, or its refusal."""
    torch.set_num_threads(1)  # OpenMP threads do not survive a fork
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = []
    for dtype, losses, norms in cases:
        model = Constant(1, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = TrainingStep(model, optimizer, micro_batch=1, dtype=getattr(torch, dtype) if dtype else None)
        own = {"loss_b": torch.tensor(losses[rank]), "loss_a": torch.tensor(0.5)}
        batch = [{"file_name": f"image of {rank}"}]
        try:
            norm = torch.tensor(norms[rank])
            metrics = gather_metrics(step, batch, own, norm, iteration=4, data_time_s=0.25 * rank)
            found.append(metrics)
        except FloatingPointError as error:
            found.append(str(error))
    dist.destroy_process_group()
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found, file)


CASES = [
    ("", (1.0, 2.0), (3.0, 3.0)),
    ("", (1.0, math.nan), (3.0, 3.0)),
    ("", (1.0, 2.0), (math.inf, 3.0)),
    ("float16", (1.0, 2.0), (3.0, math.inf)),
    ("float16", (math.inf, 2.0), (3.0, 3.0)),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What rank 0 and rank 1 found of each case."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.start_processes(tell, (str(folder), CASES), nprocs=2, start_method="fork")
    return list(zip(*(json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)), strict=True))


def test_means_and_maxima_are_the_same_on_both_ranks(told):
    first, second = told[0]
    expected = {"data_time": 0.25, "grad_norm": 3.0, "loss_a": 0.5, "loss_b": 1.5, "total_loss": 2.0}
    assert first == second == expected


@pytest.mark.parametrize(("case", "guilty"), [(1, 1), (2, 0), (4, 0)])
def test_what_is_not_finite_on_one_rank_stops_both_in_the_same_words(told, case, guilty):
    first, second = told[case]
    assert first == second
    assert f"rank {guilty}: " in first and f"image of {guilty}" in first
    assert f"rank {1 - guilty}: " not in first


def test_an_overflow_of_one_rank_under_a_loss_scaler_is_skipped_by_both(told):
    first, second = told[3]
    assert math.isnan(first["grad_norm"]) and math.isnan(second["grad_norm"])
    assert first["loss_b"] == second["loss_b"] == 1.5
