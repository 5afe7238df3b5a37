"""What one step says of itself: losses and gradient norm over all ranks, and a refusal of what is not finite."""

from __future__ import annotations

import math
from typing import NoReturn

import torch

from scaleeq.engine import comm

from .diagnosis import describe_step
from .step import Batch, Losses, TrainingStep


def gather_metrics(
    step: TrainingStep, batch: Batch, losses: Losses, norm: torch.Tensor, *, iteration: int, data_time_s: float
) -> dict[str, float]:
    """Scalars of a step, the same on all ranks: the losses and total_loss (means), grad_norm, data_time (maximum).

    losses, norm: what `step.backward(batch, iteration)` returned.

    FloatingPointError: one of them is not finite on some rank (but gradients may overflow under a loss scaler, which
    then skips the update); raised on every rank, before the weights change.
    """
    names = sorted(losses)
    *values, own_norm = torch.stack([*(losses[name].float() for name in names), norm]).tolist()
    own = dict(zip(names, values, strict=True))
    ranks = comm.all_gather({"losses": own, "norm": own_norm, "data_time": data_time_s})
    checked = [[*rank["losses"].values(), 0.0 if step.scaler.is_enabled() else rank["norm"]] for rank in ranks]
    if not all(math.isfinite(value) for rank in checked for value in rank):
        _refuse(step, batch, own, own_norm, iteration)
    mean = {name: sum(rank["losses"][name] for rank in ranks) / len(ranks) for name in names}
    data_time_s = max(rank["data_time"] for rank in ranks)
    return {"data_time": data_time_s, "total_loss": sum(mean.values()), "grad_norm": own_norm, **mean}


def _refuse(step: TrainingStep, batch: Batch, losses: dict[str, float], norm: float, iteration: int) -> NoReturn:
    """FloatingPointError on every rank, saying what is known about a step that is not finite."""
    rates = " and ".join(f"{rate:.3g}" for rate in sorted({group["lr"] for group in step.optimizer.param_groups}))
    own = describe_step(step, batch, losses=losses, norm=norm)
    ranks = [f"rank {rank}: {text}" for rank, text in enumerate(comm.all_gather(own)) if text]
    raise FloatingPointError(
        f"iteration {iteration} is not finite, at a learning rate of {rates}; "
        "weights and checkpoints are those from before it.\n" + "\n".join(ranks) + "\n"
        "Look at the files; or try a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, or SOLVER.CLIP_GRADIENTS"
    )
