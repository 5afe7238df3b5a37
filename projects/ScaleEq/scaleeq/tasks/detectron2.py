"""The decoders as heads, under their names in the engine's registry: built of (cfg, input_shape), for a config's task.

This is the one place where a config attaches equalizers, so a head has them in every meta-architecture that builds its
head by name: ScaleEqSegmentor, and Detectron2's SemanticSegmentor and PanopticFPN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from scaleeq.choices import one_of
from scaleeq.engine import SEM_SEG_HEADS_REGISTRY, ShapeSpec
from scaleeq.equalization import equalize_as_configured
from scaleeq.fusion import evaluate_fusions
from scaleeq.layers import Level
from scaleeq.layers.gate import GATES

from .base import Task
from .configured import HEADS, KEYS_OF_SOME, refuse_keys, resolve_norm
from .head import SegmentationHead
from .interaction import attach_interactions
from .joint import TaskDecoders, share_decoders
from .registry import build_tasks, the_task

if TYPE_CHECKING:
    from yacs.config import CfgNode


def build_head(name: str, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> SegmentationHead:
    """The head of one of HEADS, for the task of MODEL.TASKS, equalized as the config says.

    ValueError: a value of the config that cannot be meant, or that this head has no use for.
    """
    levels = checked_levels([name], cfg, input_shape)
    head = cfg.MODEL.SEM_SEG_HEAD
    task = the_task(cfg)
    predictor = task.predictor(head.CONVS_DIM)  # draws before the decoder, as it always has
    built = SegmentationHead(HEADS[name].make(cfg, levels), task, dropout=head.DROPOUT, predictor=predictor)
    equalize_as_configured(built, cfg)
    evaluate_fusions(built, cfg.MODEL.FUSION.EVALUATE)
    return built


def build_joint(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> tuple[TaskDecoders, dict[str, Task]]:
    """The decoders of several tasks, equalized as the config says, and the tasks with their predictors.

    ValueError: a value of the config that cannot be meant, or that no head has a use for.
    """
    keys, head, tasks = cfg.MODEL.TASKS, cfg.MODEL.SEM_SEG_HEAD, build_tasks(cfg)
    names = list(keys.HEADS) or [head.NAME] * len(tasks)
    for name in names:
        one_of(name, HEADS, key="MODEL.TASKS.HEADS" if keys.HEADS else "MODEL.SEM_SEG_HEAD.NAME")
    levels = checked_levels(list(dict.fromkeys(names)), cfg, input_shape)
    # As one head: the predictors first.
    for task in tasks.values():
        task.attach(head.CONVS_DIM, dropout=head.DROPOUT)
        if keys.WEIGHTING == "uncertainty":
            task.learn_weight()
    makers = {task: partial(HEADS[name].make, cfg, levels) for task, name in zip(tasks, names, strict=True)}
    decoders = share_decoders(makers, keys.SHARE)
    attach_interactions(tasks, keys.INTERACTION, width=head.CONVS_DIM, norm=resolve_norm(head.NORM))
    equalize_as_configured(nn.ModuleDict({"decoders": decoders, "tasks": nn.ModuleDict(tasks)}), cfg)
    return decoders, tasks


def checked_levels(names: Sequence[str], cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Level]:
    """The levels that heads read; ValueError for a number of them, or for a key, that means nothing for any head."""
    keys = cfg.MODEL.SEM_SEG_HEAD
    one_of(keys.LOSS_TYPE, ("cross_entropy",), key="MODEL.SEM_SEG_HEAD.LOSS_TYPE")
    one_of(cfg.MODEL.GATE, GATES, key="MODEL.GATE")
    levels = resolve_levels(keys.IN_FEATURES, input_shape)
    # Keys that no head reads.
    unread: dict[str, str] = {}
    for number, name in enumerate(names):
        registered = HEADS[name]
        if registered.num_levels and len(levels) != registered.num_levels:
            raise ValueError(
                f"{name} reads {registered.num_levels} {'level' if registered.num_levels == 1 else 'levels'}; "
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {keys.IN_FEATURES}"
            )
        own = {f"SEM_SEG_HEAD.{key}": part for key, part in KEYS_OF_SOME.items() if key not in registered.reads}
        own |= registered.lacks
        unread = own if not number else {key: reason for key, reason in unread.items() if key in own}
    refuse_keys(cfg, " and ".join(names), unread)
    # The stride of the logits.
    stride = next(iter(levels.values())).stride
    if stride != keys.COMMON_STRIDE:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {keys.COMMON_STRIDE}, "
            f"but the logits of these IN_FEATURES have stride {stride}; set it to {stride}"
        )
    return levels


def resolve_levels(
    levels: list[str], input_shape: Mapping[str, ShapeSpec], key: str = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
) -> dict[str, Level]:
    """The levels of `key`, finest first, and in the backbone's order where strides are equal.

    ValueError, with the levels that there are, for another one, and for one that is named twice.
    """
    missing = [level for level in levels if level not in input_shape]
    if missing or not levels:
        raise ValueError(f"{key} is {levels}; the backbone has {', '.join(input_shape)}")
    if len(set(levels)) < len(levels):
        raise ValueError(f"{key} is {levels}; name each level once")
    found = {name: Level(s.channels or 0, s.stride or 0) for name, s in input_shape.items() if name in levels}
    return dict(sorted(found.items(), key=lambda item: item[1].stride))


def _builder(name: str) -> Callable[[CfgNode, Mapping[str, ShapeSpec]], SegmentationHead]:
    """What the registry has under a name."""

    def build(cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> SegmentationHead:
        return build_head(name, cfg, input_shape)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name} of a config, with its equalizers."
    return build


for _name in HEADS:
    SEM_SEG_HEADS_REGISTRY.register(_builder(_name))
