"""Several tasks on one backbone: what their decoders share, their predictions and their losses.

In a checkpoint: "decoders.<task>.*", "decoders.shared.*" for what all have, and "tasks.<task>.*", a task's predictor,
and where tasks interact its first one and what stands between the two.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.decoders.base import Decoder, Features, PyramidDecoder
from scaleeq.layers import collected_logits
from scaleeq.task_names import SHARED

from .base import Losses, Task
from .interaction import interacting_predictions

logger = logging.getLogger(__name__)

SHARES = ("backbone", "pyramid", "decoder")


class TaskDecoders(nn.ModuleDict):
    """Features -> a map for each task. "shared" is a whole decoder, or the first step of those that have a pyramid."""

    def __init__(self, tasks: list[str], decoders: Mapping[str, Decoder]):
        """decoders: task -> its own, or what is left of it; "shared" -> what they have in common, where they have."""
        super().__init__(decoders)
        self.tasks = list(tasks)
        self.in_features = sorted({level for decoder in decoders.values() for level in decoder.in_features})

    def forward(self, features: Features) -> dict[str, torch.Tensor]:
        """features: level -> (N, C_level, H_level, W_level) -> task -> (N, C, H, W) of the finest level's size."""
        if SHARED not in self:
            return {task: self[task](features) for task in self.tasks}
        shared = self[SHARED]
        if not any(task in self for task in self.tasks):
            return dict.fromkeys(self.tasks, shared(features))
        assert isinstance(shared, PyramidDecoder)
        levels = shared.pyramid_levels(features)
        own = {task: self[task] for task in self.tasks}
        return {
            task: decoder.fused(levels) if isinstance(decoder, PyramidDecoder) else decoder(features)
            for task, decoder in own.items()
        }


def share_decoders(makers: Mapping[str, Callable[[], Decoder]], share: str) -> TaskDecoders:
    """The decoders of several tasks.

    Args:
        makers: task -> what makes its decoder.
        share: "backbone": each has a whole one. "pyramid": those with a pyramid have one pyramid, with the context
            before it; others have the backbone in common alone, which the log says. "decoder": one for all, made by
            the first of the makers.

    ValueError: an unknown share; pyramids of different decoders.
    """
    one_of(share, SHARES, key="MODEL.TASKS.SHARE")
    tasks = list(makers)
    if share == "decoder":
        return TaskDecoders(tasks, {SHARED: makers[tasks[0]]()})
    decoders: dict[str, Decoder] = {task: make() for task, make in makers.items()}
    if share == "backbone":
        return TaskDecoders(tasks, decoders)
    # Who has a pyramid to share.
    pyramids = {task: decoder for task, decoder in decoders.items() if isinstance(decoder, PyramidDecoder)}
    kinds = {task: type(decoder).__name__ for task, decoder in decoders.items()}
    if len({kinds[task] for task in pyramids}) > 1:
        has = ", ".join(f"{task} {kinds[task]}" for task in pyramids)
        raise ValueError(
            f"MODEL.TASKS.SHARE is 'pyramid', but the pyramids are of different decoders ({has}): give these tasks one "
            "name in MODEL.TASKS.HEADS, or SHARE 'backbone'"
        )
    for task in decoders.keys() - pyramids.keys():
        logger.info("%s has no pyramid: %s has the backbone alone in common with other tasks", kinds[task], task)
    if len(pyramids) < 2:
        return TaskDecoders(tasks, decoders)
    # One pyramid, and the rest of each.
    shared = copy.deepcopy(next(iter(pyramids.values())))
    shared.drop_parts(of_pyramid=False)
    for decoder in pyramids.values():
        decoder.drop_parts(of_pyramid=True)
    return TaskDecoders(tasks, {SHARED: shared, **decoders})


def joint_predictions(decoders: nn.Module, tasks: Mapping[str, Task], features: Features) -> dict[str, torch.Tensor]:
    """decoders: a TaskDecoders -> task -> (N, channels, h, w) at its decoder's stride."""
    return interacting_predictions(tasks, decoders(features))[0]


def joint_losses(
    decoders: nn.Module,
    tasks: Mapping[str, Task],
    features: Features,
    targets: Mapping[str, torch.Tensor | None],
) -> dict[str, Losses]:
    """Task -> name -> loss, unweighted; those of a first prediction, which other tasks see, end in "_first".

    targets: task -> as `Task.targets` makes them; None where no sample of the batch has any: then the loss is 0, and
    its gradients too, so that every process has the same losses and gradients of the same parameters.
    """
    with collected_logits() as gates:
        predictions, first = interacting_predictions(tasks, decoders(features))
    found: dict[str, Losses] = {}
    for name, task in tasks.items():
        found[name] = _losses(task, predictions[name], targets[name])
        if name in first:
            of_first = _losses(task, first[name], targets[name])
            found[name] |= {f"{key}_first": loss for key, loss in of_first.items()}
    # What gates predict is of the task whose decoder they are in, or of the classes.
    for path, gate in decoders.named_modules():
        if gate in gates:
            owner, _, rest = path.partition(".")
            owner = owner if owner in tasks else ("sem_seg" if "sem_seg" in tasks else next(iter(tasks)))
            labels = targets[owner]  # where another task than the classes is the owner, it refuses
            found[owner] |= tasks[owner].gate_losses({gate_name(rest): gates[gate]}, labels)  # type: ignore[arg-type]
    return found


def _losses(task: Task, prediction: torch.Tensor, target: torch.Tensor | None) -> Losses:
    if target is None:
        return {f"loss_{task.name}": prediction.float().sum() * 0}
    return task.losses(prediction, target, task.mean_count)


def gate_name(path: str) -> str:
    """ "fusion.branches.p3.transfer" -> "fusion_p3": the name of a gate's loss, from its path in a decoder."""
    return "_".join(part for part in path.split(".") if part not in ("branches", "transfer", "gate"))
