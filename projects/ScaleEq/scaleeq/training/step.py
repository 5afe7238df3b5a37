"""One training step: its random state, its micro-batches, mixed precision and gradients.

The gradient is that of the whole batch of SOLVER.IMS_PER_BATCH samples, however it is cut into micro-batches and
ranks: each loss that is a mean over pixels divides by the mean count of all of them, its task's (prepare_step). What
cannot be cut so: batch norm sees a micro-batch (SyncBN: that of all ranks), and OHEM, Dice and Lovasz look at one
micro-batch of one rank. Loss scaling is torch's GradScaler.

The host enqueues a step's forward and backward passes without waiting for the device (but for Dice and Lovasz, which
wait for their classes). Then it waits once, in metrics.gather_metrics, for the losses and the gradient norm: whether
the weights may change is decided from them. A decision on the device would spare the wait, but only torch's fused
optimizers take one, and its fused SGD leaves the momentum undefined where the first update is skipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scaleeq.choices import one_of
from scaleeq.data.rules import samples_per_pass
from scaleeq.engine import CfgNode, comm, seed_all_rng
from scaleeq.tasks.losses.averaging import Count, prepare_step
from scaleeq.tasks.weighting import TaskLosses, collected_task_losses

from .batches import Batch, cut, to_device
from .solver import Clipper

Losses = dict[str, torch.Tensor]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a DistributedDataParallel wrapper, or itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def seed_iteration(seed: int, *, rank: int, iteration: int) -> None:
    """Seed every generator of this process with a function of the arguments.

    So an iteration's random numbers depend neither on how many were drawn before nor on an interruption, and a
    checkpoint has no generator to keep.
    """
    seed_all_rng(int(np.random.SeedSequence([seed, rank, iteration]).generate_state(1)[0]))


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The type of SOLVER.AMP; None without it. ValueError for another type."""
    dtype = DTYPES[one_of(cfg.SOLVER.AMP.DTYPE, DTYPES, key="SOLVER.AMP.DTYPE")]
    return dtype if cfg.SOLVER.AMP.ENABLED else None


def micro_batch_size(cfg: CfgNode, world_size: int) -> int:
    """Samples of one forward pass on one of `world_size` processes.

    ValueError: SOLVER.IMS_PER_BATCH, the batch of a whole step, cannot be cut so.
    """
    return samples_per_pass(cfg.SOLVER.IMS_PER_BATCH, num_processes=world_size, passes=cfg.SOLVER.ACCUMULATE)


def gradient_norm(model: nn.Module) -> torch.Tensor:
    """() float32: the 2-norm over the gradients of all parameters that have one; 0 where none has."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    # Half precision has no room for a sum of squares.
    gradients = [g.float() if g.dtype in DTYPES.values() else g for g in gradients]
    return nn.utils.get_total_norm(gradients).float()


class TrainingStep:
    """Gradients of a batch, then the update of the weights; between them the caller may refuse the gradients.

    Args:
        model: batch -> losses; a DistributedDataParallel one exchanges gradients once a step.
        micro_batch: samples per forward pass.
        dtype: of autocast; None: no autocast. float16 scales the losses, and skips updates whose gradients overflow.
        clip_gradients: applied to the complete gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        micro_batch: int,
        device_type: str = "cpu",
        dtype: torch.dtype | None = None,
        clip_gradients: Clipper | None = None,
    ):
        self.model = model
        self.optimizer = optimizer
        self.micro_batch = micro_batch
        self.device_type = device_type
        self.dtype = dtype
        self.clip_gradients = clip_gradients
        self.scaler = torch.amp.GradScaler(device_type, enabled=dtype == torch.float16)
        self.skipped = 0
        self.watch_tasks: Callable[[Losses], None] | None = None  # sees each task's share of a loss, with its graph

    @property
    def plain_model(self) -> nn.Module:
        """The model without its DistributedDataParallel wrapper."""
        return unwrapped(self.model)

    def backward(self, batch: Batch, iteration: int) -> tuple[Losses, torch.Tensor]:
        """Leave the gradients of `batch`, this process's share, in the parameters.

        Returns name -> (), each loss averaged over the micro-batches, detached; and (), the norm of the gradients. Of
        several tasks the losses are without their weights, and "total_loss" is with them.
        """
        parts = self.micro_batches(batch)
        self.optimizer.zero_grad()
        # Each part adds its gradients; ranks exchange them after the last one.
        sums: Losses = {}
        with prepare_step(self.plain_model, iteration=iteration, mean_count=self._mean_counts(parts)):
            for index, part in enumerate(parts):
                with self._exchange(index == len(parts) - 1):
                    with collected_task_losses() as told:
                        losses = self.forward(part)
                    total = torch.stack(list(losses.values())).sum() / len(parts)
                    self.add_gradients(total, told, num_parts=len(parts))
                if told.unweighted:
                    losses = told.unweighted | {"total_loss": total * len(parts)}
                for name, loss in losses.items():
                    sums[name] = sums.get(name, 0.0) + loss.detach() / len(parts)
        self.complete_gradients()
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        return sums, gradient_norm(self.plain_model)

    def add_gradients(self, total: torch.Tensor, told: TaskLosses, *, num_parts: int) -> None:
        """Add the gradients of a micro-batch to the parameters'.

        total: (), its loss, divided by num_parts, the micro-batches of the step. told: what its tasks say of theirs.
        """
        if self.watch_tasks is not None and len(told.totals) > 1:
            self.watch_tasks({name: share / num_parts for name, share in told.totals.items()})
        self.scaler.scale(total).backward()

    def complete_gradients(self) -> None:
        """After the last micro-batch of a step: nothing is left to do."""

    def update(self, *, finite: bool | None = None) -> None:
        """Clip the gradients and step the optimizer; where a scaled gradient overflowed, only lower the scale.

        finite: whether the norm of `backward` was, from a caller who has read it; None: the scaler looks, for which the
            host waits for the device again.
        """
        if self.scaler.is_enabled() and finite is False:
            self.skipped += 1
            self.optimizer.zero_grad()  # a step without gradients changes nothing; the schedule sees that it was due
            self.optimizer.step()
            self.scaler.update()
            return
        if self.clip_gradients is not None:
            self.clip_gradients([p for group in self.optimizer.param_groups for p in group["params"]])
        if finite:
            self.skipped = 0
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
        self.scaler.update()

    def loss_scale(self) -> torch.Tensor:
        """(), float32, on the model's device: what losses are multiplied with."""
        return self.scaler.scale(torch.ones((), device=self.device))

    @property
    def device(self) -> torch.device:
        return next(self.plain_model.parameters()).device

    def micro_batches(self, batch: Batch) -> list[Batch]:
        """The batch in the order of its samples, cut into pieces of `micro_batch`."""
        return list(cut(batch, self.micro_batch))

    def forward(self, part: Batch) -> Losses:
        """Name -> loss of a micro-batch."""
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not None):
            tasks = getattr(self.plain_model, "tasks", None)  # another's model has classes
            targets = [task.target_key for task in tasks.values()] if tasks else ["sem_seg"]
            return self.model(to_device(part, self.device, targets))

    @contextlib.contextmanager
    def _exchange(self, complete: bool) -> Iterator[None]:
        """Gradients are summed over ranks in the last backward pass of a step, not before."""
        if complete or not isinstance(self.model, DistributedDataParallel):
            yield
        else:
            with self.model.no_sync():
                yield

    def _mean_counts(self, parts: list[Batch]) -> dict[str, Count]:
        """Task -> elements that its losses average over, mean over all micro-batches of all ranks; {}: there is one.

        Counted where the targets are, before they go to the device. Of several ranks, the sums stay on it.
        """
        # One part needs no count of the others.
        counts = getattr(self.plain_model, "counts", None)
        if counts is None or (len(parts) == 1 and comm.get_world_size() == 1):
            return {}
        # Of this rank.
        each = [counts(part) for part in parts]
        own = {name: sum(part[name] for part in each) for name in each[0]}
        if comm.get_world_size() == 1:
            return {name: count / len(parts) for name, count in own.items()}
        # Of all ranks.
        totals = torch.empty(len(own), dtype=torch.float64, device=self.device)
        for total, count in zip(totals, own.values(), strict=True):
            total.fill_(count)  # a copy from the host's memory would wait for the device
        dist.all_reduce(totals)
        return dict(zip(own, totals / (len(parts) * comm.get_world_size()), strict=True))
