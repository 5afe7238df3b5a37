"""What one step says of itself: losses and gradient norm over all ranks, and a refusal of what is not finite."""

from __future__ import annotations

import math
from typing import NoReturn

import torch
import torch.distributed as dist

from scaleeq.engine import comm

from .batches import Batch
from .diagnosis import describe_step
from .step import Losses, TrainingStep

# A loss scaler halves its scale at each overflow: normal in a run's first steps, while it looks for its level. float16
# spans 40 doublings (2^-24 to 2^16), so a search that is longer, from wherever it started, looks for what is not there.
MAX_SKIPPED = 40


def gather_metrics(
    step: TrainingStep,
    batch: Batch,
    losses: Losses,
    norm: torch.Tensor,
    *,
    iteration: int,
    data_time_s: float,
) -> dict[str, float]:
    """Scalars of a step, the same on all ranks: the losses and total_loss (means), grad_norm, data_time (maximum).

    losses, norm: what `step.backward(batch, iteration)` returned.

    grad_norm is not finite where gradients overflow under a loss scaler: the update is to be skipped then.

    FloatingPointError: a loss or a gradient is not finite on some rank, or a loss scaler has no scale left to try;
    raised on every rank, before the weights change.
    """
    # One exchange for all numbers.
    names = sorted(losses)
    rows = _of_all_ranks([*(losses[name] for name in names), norm, step.loss_scale()], data_time_s)
    own, num = rows[comm.get_rank()], len(names)
    own_losses, norms, scale = dict(zip(names, own, strict=False)), [row[num] for row in rows], own[num + 1]
    # Refuse: a loss scaler may skip an overflow, nothing else is skipped.
    broken = not all(math.isfinite(value) for row in rows for value in row[:num])
    overflowed = not all(map(math.isfinite, norms))
    may_skip = step.scaler.is_enabled() and scale > 1 and step.skipped + 1 < MAX_SKIPPED
    if broken or (overflowed and not may_skip):
        _refuse(step, batch, own_losses, own[num], iteration, scale=scale)
    # Means over ranks.
    mean = {name: sum(row[index] for row in rows) / len(rows) for index, name in enumerate(names)}
    total = mean.pop("total_loss", None)  # of several tasks it is not the losses' sum
    return {
        "data_time": max(row[-1] for row in rows),
        "total_loss": sum(mean.values()) if total is None else total,
        "grad_norm": math.nan if overflowed else own[num],
        **mean,
    }


def _of_all_ranks(tensors: list[torch.Tensor], number: float) -> list[list[float]]:
    """The values of each rank, in the order given, as float32. This is where the host waits for the device."""
    # The number is filled in, not copied: a copy from ordinary memory waits for all that is enqueued.
    filled = torch.full((), number, device=tensors[0].device)
    values = torch.stack([tensor.float() for tensor in [*tensors, filled]])
    if comm.get_world_size() == 1:
        return [values.tolist()]
    gathered = [torch.empty_like(values) for _ in range(comm.get_world_size())]
    dist.all_gather(gathered, values)
    return torch.stack(gathered).tolist()


def _refuse(
    step: TrainingStep,
    batch: Batch,
    losses: dict[str, float],
    norm: float,
    iteration: int,
    *,
    scale: float,
) -> NoReturn:
    """FloatingPointError on every rank, saying what is known about a step that is not finite.

    scale: what the losses were multiplied with.
    """
    # What this step was.
    rates = " and ".join(f"{rate:.3g}" for rate in sorted({group["lr"] for group in step.optimizer.param_groups}))
    # What each rank knows.
    own = describe_step(step, batch, losses=losses, norm=norm)
    ranks = [f"rank {rank}: {text}" for rank, text in enumerate(comm.all_gather(own)) if text]
    # The way out.
    skipped, advice = "", "SOLVER.CLIP_GRADIENTS"
    if step.scaler.is_enabled():
        skipped = f" (loss scale {scale:.3g}, {step.skipped} updates skipped in a row)" if step.skipped else ""
        advice = "SOLVER.AMP.DTYPE bfloat16"
    raise FloatingPointError(
        f"iteration {iteration} is not finite, at a learning rate of {rates}{skipped}; "
        "weights and checkpoints are those from before it.\n" + "\n".join(ranks) + "\n"
        f"Look at the files; or try a lower SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, or {advice}"
    )
