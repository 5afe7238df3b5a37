"""What a calibration runs of a model, and whether each of its Fusions can be measured and take what was measured."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from scaleeq.fusion import Fusion
from scaleeq.fusion.fusion import Observer

from .frozen import refuse_frozen_without_weights
from .mode import measuring
from .precision import refuse_misfit

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Gather(Protocol):
    """Collects the objects of all processes, in the order of their ranks."""

    def __call__(self, value: T, /) -> list[T]: ...


def alone(value: T) -> list[T]:
    """The Gather of a single process."""
    return [value]


@contextmanager
def observed_by(observers: Mapping[Fusion, Observer | None]) -> Iterator[None]:
    """Inside, each Fusion shows its branches to this observer (None: to nobody), and afterwards to its own again."""
    before = {fusion: fusion.observer for fusion in observers}
    try:
        for fusion, observer in observers.items():
            fusion.observer = observer
        yield
    finally:
        for fusion, observer in before.items():
            fusion.observer = observer


@runtime_checkable
class Measurable(Protocol):
    """What a model of this project states, so that a calibration gives it batches as training does. A model without
    both is called itself: what it has under one of these names may be anything.
    """

    def calibration_inputs(self, batch: Any) -> tuple[object, torch.Tensor | None]:
        """batch -> (the input of `logits`, valid (N, 2) or None), as `inputs` of calibrate."""

    def logits(self, x: Any) -> object:
        """The part of the forward that runs the Fusions."""


def forward_of(model: nn.Module) -> Callable[..., object]:
    """What runs a model's Fusions."""
    return model.logits if isinstance(model, Measurable) else model


def refuse_unmeasurable(model: nn.Module, fusions: dict[str, Fusion], x: object) -> None:
    """ValueError for a model whose scales say nothing, or that runs one of its fusions twice in model(x)."""
    refuse_frozen_without_weights(model)
    refuse_second_runs(model, fusions, x)


def refuse_second_runs(model: nn.Module, fusions: dict[str, Fusion], x: object) -> None:
    """ValueError for a fusion that runs twice in model(x): its equalizers can have the statistics of one place only.

    A twin runs, with the same weights, because a forward of the model ends at the fusion that is measured.
    """
    try:
        with observed_by(dict.fromkeys(fusions.values())):
            twin = copy.deepcopy(model, {id(p): p for p in model.parameters()})
    except (RuntimeError, TypeError) as error:
        logger.warning("the model cannot be copied (%s), so it was not seen whether it runs a fusion twice", error)
        return
    # Count, in a twin.
    runs: Counter[str] = Counter()
    for name in fusions:
        twin.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: runs.update([name]))
    try:
        with measuring(twin):
            forward_of(twin)(x)
    except Exception as error:
        logger.debug("what follows the fusions does not run in a calibration: %s", error)
    if again := [name for name, count in runs.items() if count > 1]:
        raise ValueError(
            f"the forward runs {', '.join(again)} more than once, and its equalizers can have the statistics of one "
            "place: give each place a Fusion of its own"
        )


def refuse_named_misfit(name: str, fusion: Fusion) -> None:
    """ValueError, with the fusion's name, where weights in half precision cannot take its scales; they are reset."""
    try:
        refuse_misfit(fusion)
    except ValueError as error:
        for equalizer in fusion.equalizer_of.values():
            equalizer.reset()  # an initializer has not scaled its weights yet, so nothing is to be taken back
        raise ValueError(f"fusion {name!r}: {error}") from error
