"""Calibration: measure the mean and the standard deviation of every branch over the training data (arXiv 2402.01149,
algorithm 1).

Fusions are measured one after another in the order in which they run, so that each sees its inputs equalized already
(UPerNet: the pyramid pooling, then the final fusion). Where that would take more than MAX_PASSES passes over the data
(BiFPN: one per node), all are measured in one: each hands on its maps equalized by what has been measured until then,
so what follows sees the first batches slightly off. Batch norms use batch statistics, because a fresh decoder's running
statistics are meaningless; dropout, drop path and autocast are off. Parameters (but for those that an initializer
scales), buffers (but for the equalizers') and the random state stay bit-identical.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from scaleeq.fusion import Fusion, Observation

from .controls import control_statistics
from .forwards import Gather, Measurable, alone, forward_of, observed_by, refuse_named_misfit, refuse_unmeasurable
from .gradients import balance_gradients, training_loss
from .implementations import attached
from .mode import measuring, with_batch_statistics
from .moments import BranchMoments
from .result import BranchStatistics, CalibrationReport
from .spec import EqualizerSpec

logger = logging.getLogger(__name__)

MIN_IMAGES, MAX_IMAGES, MIN_BATCHES = 32, 512, 4
TOLERANCE = 0.01  # of each standard deviation, relative
MAX_PASSES = 8  # over the data; with more fusions, one joint pass
DEAD = 1e-6  # a standard deviation below this share of the fusion's largest is not divided by

Batch = TypeVar("Batch")
Inputs = Callable[[Batch], tuple[object, torch.Tensor | None]]


class _Measured(Exception):
    """Ends a forward once the fusion that is being measured has shown its last branch."""


def fusions_of(model: nn.Module, *, equalized: bool = True) -> dict[str, Fusion]:
    """Name -> Fusion, for all of a model's fusions or for those with equalizers."""
    fusions = {name: module for name, module in model.named_modules() if isinstance(module, Fusion)}
    return {name: fusion for name, fusion in fusions.items() if fusion.equalizers or not equalized}


def is_calibrated(fusion: Fusion) -> bool:
    """Whether every equalizer of a fusion has its statistics."""
    return all(equalizer.calibrated for equalizer in fusion.equalizer_of.values())


def require_calibrated(model: nn.Module) -> None:
    """Raise RuntimeError, naming the fusions, where a model has equalizers without statistics."""
    missing = [name for name, fusion in fusions_of(model).items() if not is_calibrated(fusion)]
    if missing:
        raise RuntimeError(
            f"the scale equalizers of {', '.join(missing)} are not calibrated: load a checkpoint of a calibrated model "
            "(MODEL.WEIGHTS), train it, or call scaleeq.calibrate(model, loader)"
        )


@torch.no_grad()
def calibrate(
    model: nn.Module,
    loader: Iterable[Batch],
    *,
    num_images: int = 0,
    inputs: Inputs[Batch] | None = None,
    gather: Gather | None = None,
    progress: Callable[[str], None] | None = None,
    loss: Callable[[Batch], torch.Tensor] | None = None,
) -> CalibrationReport:
    """Measure and set the statistics of all scale equalizers of a model.

    Args:
        model: holds Fusions with equalizers; all of them are measured again.
        loader: batches of training data; iterated once per fusion, or once where there are more than MAX_PASSES.
        num_images: 0: until each std is known to 1 % (at least 32, at most 512 images); n: at least n; -1: the whole
            loader.
        inputs: batch -> (the model's input, valid (N, 2) or None); `valid` is the share of height and width of each
            image that is not padding. Default: those of a Measurable model, else the batch itself.
        gather: all ranks' objects in rank order, where several processes measure different batches of equal number.
        progress: told one line per fusion; default the log.
        loss: batch -> the training loss, for STATISTIC "grad"; default the sum of the losses that the model returns.

    Returns:
        What was measured. On an error the equalizers (and the weights that an initializer scales) are as they were.

    Raises:
        ValueError: no equalizers; an empty loader; a Fusion that the forward never reaches, or runs twice; a branch
            that is not finite; a scale that weights in half precision cannot take; a batch norm of an equalized fusion
            that gets one value per channel.
    """
    fusions = fusions_of(model)
    if not fusions:
        raise ValueError(
            "the model has no scale equalizers to calibrate; enable MODEL.SCALE_EQUALIZER or give its Fusions one"
        )
    if isinstance(num_images, bool) or not isinstance(num_images, int) or num_images < -1:
        raise ValueError(f"num_images is {num_images}; give 0 (until known to 1 %), n > 0, or -1 (the whole loader)")
    inputs = inputs or (model.calibration_inputs if isinstance(model, Measurable) else lambda batch: (batch, None))
    gather = gather or alone
    tell = progress or logger.info
    report = CalibrationReport(joint=_measured_jointly(fusions, tell))
    with _kept_on_error(fusions):
        for fusion in fusions.values():
            fusion.reset_equalizers()
        buffers = [b for fusion in fusions.values() for b in fusion.equalizers.buffers()]
        # Measure: each pass sets some fusions, and the next ones see those equalized.
        with measuring(model, written=buffers), with_batch_statistics(fusions):
            while pending := {name: fusion for name, fusion in fusions.items() if not is_calibrated(fusion)}:
                measurement = _Measurement(pending, gather, joint=report.joint)
                measurement.run(model, inputs, loader, num_images, count_runs=not report.fusions)
                report.fusions |= (measured := measurement.apply())
                for name in measured:
                    report.no_effect |= {name: why} if (why := fusions[name].no_effect) else {}
                    tell(report.line(name))
        # Gradients need all stds first.
        balanced = {name: fusion for name, fusion in fusions.items() if _spec(fusion).balances_gradients}
        if balanced:
            balance_gradients(model, balanced, loader, loss=loss or training_loss(model), gather=gather)
    return report


@contextmanager
def _kept_on_error(fusions: dict[str, Fusion]) -> Iterator[None]:
    """Give equalizers, and the weights that an initializer scales, back as they were if the context fails."""
    saved = {name: copy.deepcopy(fusion.equalizers.state_dict()) for name, fusion in fusions.items()}
    try:
        yield
    except BaseException:
        for name, fusion in fusions.items():
            fusion.reset_equalizers()
            fusion.equalizers.load_state_dict(saved[name])
            if is_calibrated(fusion):
                fusion.initialize()
        raise


def _spec(fusion: Fusion) -> EqualizerSpec:
    return attached(fusion).spec  # only equalized fusions are measured


def _measured_jointly(fusions: dict[str, Fusion], tell: Callable[[str], None]) -> bool:
    """Whether there are too many for a pass each. Not with initializers: they scale their weights only once."""
    if len(fusions) <= MAX_PASSES or any(attached(fusion).initializes for fusion in fusions.values()):
        return False
    tell(f"measuring {len(fusions)} fusions jointly, in one pass: each is equalized by its statistics until then")
    return True


class _Measurement:
    """One pass over the data: the first uncalibrated fusion that runs is measured, and the forward ends after it.

    Joint: all that run are measured, and their equalizers follow the moments from batch to batch.
    """

    def __init__(self, pending: dict[str, Fusion], gather: Gather, *, joint: bool):
        self.names = {id(fusion): name for name, fusion in pending.items()}
        self.pending = pending
        self.gather = gather
        self.joint = joint
        self.moments: dict[str, dict[str, BranchMoments]] = {}
        self.valid: torch.Tensor | None = None
        self.batch_size = 0
        self.num_images = 0

    def observe(self, fusion: Fusion, seen: Observation) -> None:
        name = self.names[id(fusion)]
        if name not in self.moments:
            if self.moments and not self.joint:
                return
            self.moments[name] = {branch: BranchMoments() for branch in fusion.branches}
        moments = self.moments[name]
        self.batch_size = len(seen.transferred)
        x = seen.source if _spec(fusion).of_source else seen.transferred
        moments[seen.branch].update(x * seen.scale + seen.offset if self.joint else x, self.valid)
        # Stop here, or go on with the branch equalized as far as is known.
        if self.joint and math.isfinite(moments[seen.branch].scalar()[1]):
            self._equalize(fusion, seen.branch, moments)
        elif not self.joint and seen.branch == list(moments)[-1]:
            raise _Measured

    def run(self, model: nn.Module, inputs: Inputs, loader: Iterable, num_images: int, *, count_runs: bool) -> None:
        forward = forward_of(model)
        with observed_by(dict.fromkeys(self.pending.values(), self.observe)):
            for batch in loader:
                # Look once, before anything is measured.
                x, self.valid = inputs(batch)
                if count_runs and not self.num_images:
                    refuse_unmeasurable(model, self.pending, x)
                self._forward(forward, x)
                self._check_finite()
                self.num_images += sum(self.gather(self.batch_size))
                if self._enough(num_images):
                    break
        if not self.num_images:
            raise ValueError("the calibration loader gave no batch; give one that can be iterated once per fusion")
        self.moments = self._merged()

    def _forward(self, forward: Callable[..., object], x: object) -> None:
        try:
            forward(x)
        except _Measured:
            return
        if missing := [name for name in self.pending if not self.joint or name not in self.moments]:
            raise ValueError(
                f"the forward does not run the fusions {', '.join(missing)}: remove them or run them (a module that is "
                "also kept outside of the model's modules, in a plain list, runs there without its Fusion)"
            )

    def _check_finite(self) -> None:
        for name, branches in self.moments.items():
            for branch, moments in branches.items():
                if not math.isfinite(moments.scalar()[1]):
                    raise ValueError(f"branch {branch!r} of fusion {name!r} is not finite on a calibration batch")

    def _merged(self) -> dict[str, dict[str, BranchMoments]]:
        """The moments of all ranks, merged in rank order, so that every rank gets the same bits."""
        merged = {name: {branch: BranchMoments() for branch in branches} for name, branches in self.moments.items()}
        for of_rank in self.gather(self.moments):
            for name, branches in of_rank.items():
                for branch, part in branches.items():
                    merged[name][branch].merge(part)
        return merged

    def _enough(self, num_images: int) -> bool:
        if num_images:
            return num_images > 0 and self.num_images >= num_images
        if self.num_images >= MAX_IMAGES:
            return True
        if self.num_images < MIN_IMAGES:
            return False
        # As many batches as an error estimate needs, and that error small.
        merged = [moments for branches in self._merged().values() for moments in branches.values()]
        batches = min(len(moments.batches) for moments in merged)
        return batches >= MIN_BATCHES and max(moments.relative_standard_error() for moments in merged) <= TOLERANCE

    def apply(self) -> dict[str, dict[str, BranchStatistics]]:
        """Set the equalizers to what was measured, and return it."""
        measured: dict[str, dict[str, BranchStatistics]] = {}
        for name, branches in self.moments.items():
            fusion, measured[name] = self.pending[name], {}
            for branch, moments in branches.items():
                mean, variance = moments.scalar()
                measured[name][branch] = BranchStatistics(
                    mean=mean,
                    std=math.sqrt(variance),
                    channels=len(moments.mean),
                    num_images=self.num_images,
                    relative_standard_error=moments.relative_standard_error(),
                )
                dead = self._equalize(fusion, branch, branches)
                if dead.any():
                    logger.warning(
                        "fusion %s, branch %s: %s constant over the calibration images; not scaled",
                        name,
                        branch,
                        "it is" if dead.dim() == 0 else f"{int(dead.sum())} of {dead.numel()} channels are",
                    )
            # Constants of a control, refusals, and the initializer, which scale by what was set.
            control_statistics(fusion)
            if attached(fusion).in_weights:
                refuse_named_misfit(name, fusion)
            fusion.initialize()
        return measured

    def _equalize(self, fusion: Fusion, branch: str, moments: dict[str, BranchMoments]) -> torch.Tensor:
        """Set a branch's equalizer to its moments; returns where, () or (C,), it is constant and so not scaled."""
        equalizer, spec = fusion.equalizer_of[branch], _spec(fusion)
        if spec.per_channel:
            means, variances = moments[branch].mean, moments[branch].variance
        else:
            means, variances = torch.tensor(moments[branch].scalar(), dtype=torch.float64)
        # A constant branch has no scale to divide by.
        stds = (variances + means**2 if spec.around_zero else variances).sqrt()
        dead = stds <= DEAD * math.sqrt(max(part.scalar()[1] for part in moments.values() if part.count))
        stds = torch.where(dead, 1.0, stds)
        equalizer.set_statistics(means if spec.centers else torch.zeros_like(means), stds, self.num_images or 1)
        return dead
