"""What every head shares: a classifier, a loss and Detectron2's head protocol.

A head has a pure `logits(features)` and `forward(features, targets)` -> (logits or None, losses), so it also works
inside Detectron2's SemanticSegmentor and PanopticFPN; registered_heads.py builds it of (cfg, input_shape), as they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from scaleeq.choices import one_of
from scaleeq.config import add_scaleeq_config
from scaleeq.engine import ShapeSpec, comm, get_cfg
from scaleeq.layers import NormFactory, collected_logits, norm_factory
from scaleeq.tasks.base import Task
from scaleeq.tasks.losses.options import LossOptions
from scaleeq.tasks.losses.segmentation import SegmentationLoss
from scaleeq.tasks.semantic import SemanticTask

# Keys of MODEL.SEM_SEG_HEAD that some heads read -> the part that they describe.
KEYS_OF_SOME = {
    "POOL_SCALES": "pyramid pooling",
    "ASPP_DILATIONS": "atrous pooling",
    "ASPP_CHANNELS": "atrous pooling",
    "PROJECT_CHANNELS": "low level to project",
    "CONTEXT_GATE": "context to gate",
}

Features = Mapping[str, torch.Tensor]


class Level(NamedTuple):
    """One level of a backbone: channels, and stride in pixels of the image."""

    channels: int
    stride: int


class SegmentationHead(nn.Module):
    """Base of the heads: subclasses define `fuse(features)`, the map that is classified.

    Args:
        input_shape: the levels used, finest first: name -> channels and stride; ValueError for another order. Logits
            have the finest one's stride.
        channels: width of the map that is classified.
        dropout: share of channels dropped before the classifier.
    """

    def __init__(
        self,
        *,
        input_shape: Mapping[str, Level],
        channels: int,
        num_classes: int,
        dropout: float = 0.1,
        loss: SegmentationLoss | None = None,
    ):
        super().__init__()
        refuse_levels(input_shape)
        self._compiled_logits: Callable[[Features], torch.Tensor] | None = None
        self.in_features = list(input_shape)
        self.common_stride = input_shape[self.in_features[0]].stride
        self.channels = channels
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.attach(SemanticTask(num_classes=num_classes, loss=loss))

    def attach(self, task: Task) -> None:
        """Train and predict this task, with a predictor of its own, instead of the one before."""
        self.task = task
        self.classifier = task.predictor(self.channels)

    @property
    def loss(self) -> SegmentationLoss:
        """The loss of the classes."""
        return self.task.loss  # type: ignore[return-value]

    @property
    def ignore_value(self) -> int:
        """The label without a loss; Detectron2's segmentors pad labels with it."""
        return self.loss.ignore_value

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """The constructor's arguments that a config states."""
        raise NotImplementedError

    def fuse(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) at common_stride."""
        raise NotImplementedError

    def logits(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, num_classes, H, W) at common_stride."""
        return self.classifier(self.dropout(self.fuse(features)))

    def forward(
        self, features: Features, targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """targets: (N, H, W) labels, or what the task makes of its own -> (None, losses) in training; else
        (logits (N, K, H, W) at stride 1, {}).
        """
        if self.training and targets is None:
            raise ValueError("a head in training needs targets: (N, H, W) labels")
        with collected_logits() as predicted:
            logits = self.logits(features)
        if targets is not None and self.training:
            losses = self.task.losses(logits, targets, self.task.mean_count)
            return None, losses | self.task.gate_losses(self._by_name(predicted), targets)
        stride = self.common_stride
        return F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False), {}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """torch.compile what training calls, the head itself, and what inference calls, its logits."""
        super().compile(*args, **kwargs)
        self._compiled_logits = torch.compile(self.logits, *args, **kwargs)

    def inference_logits(self, features: Features) -> torch.Tensor:
        """`logits`, compiled where the head is."""
        return self._compiled_logits(features) if self._compiled_logits else self.logits(features)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is compiled, as torch has it: a copy would call the original."""
        return {**super().__getstate__(), "_compiled_logits": None}

    def _by_name(self, predicted: Mapping[nn.Module, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What gates of this head predict, under "<fusion>_<branch>"."""
        if not predicted:
            return {}
        paths = {path: gate for path, gate in self.named_modules() if gate in predicted}
        return {
            "_".join(part for part in path.split(".") if part not in ("branches", "transfer", "gate")): predicted[gate]
            for path, gate in paths.items()
        }


def refuse_levels(input_shape: Any) -> None:
    """ValueError for what is not level -> channels and stride, finest first."""
    if not isinstance(input_shape, Mapping) or not input_shape:
        given = "empty" if isinstance(input_shape, Mapping) else f"a {type(input_shape).__name__}"
        raise ValueError(f"input_shape is {given}; give name -> Level(channels, stride), finest first")
    for name, level in input_shape.items():
        numbers = [getattr(level, key, None) for key in ("channels", "stride")]
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            raise ValueError(f"level {name!r} of input_shape is {level!r}; give Level(channels, stride)")
    strides = {name: level.stride for name, level in input_shape.items()}
    if list(strides.values()) != sorted(strides.values()):
        ordered = ", ".join(sorted(strides, key=strides.__getitem__))
        raise ValueError(f"input_shape has strides {strides}; give the levels finest first: {ordered}")


def take_levels(input_shape: Mapping[str, Level], number: int, head: str) -> list[Level]:
    """The levels of a head that reads so many; ValueError for more or fewer."""
    if len(input_shape) != number:
        levels = "level" if number == 1 else "levels"
        raise ValueError(f"{head} reads {number} {levels}; input_shape has {', '.join(input_shape)}")
    return list(input_shape.values())


def resolve_norm(name: str) -> NormFactory | None:
    """The norm of a NORM key. "SyncBN" is the engine's, and plain BN where one process trains alone."""
    if name == "SyncBN":
        if comm.get_world_size() == 1:
            return norm_factory("BN")
        from scaleeq.engine import NaiveSyncBatchNorm

        return NaiveSyncBatchNorm
    return norm_factory(name)


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


def head_arguments(
    cfg: Any,
    input_shape: Mapping[str, ShapeSpec],
    head: str,
    *,
    num_levels: int = 0,
    reads: Sequence[str] = (),
    lacks: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The constructor arguments that all main heads read from the same keys.

    Args:
        head: its name, for messages.
        num_levels: how many IN_FEATURES it reads; 0: any number.
        reads: those of KEYS_OF_SOME that it reads; it refuses the others.
        lacks: what else means nothing for it -> why not: a part of MODEL ("PYRAMID") or one key of such a part.
    """
    keys = cfg.MODEL.SEM_SEG_HEAD
    levels = resolve_levels(keys.IN_FEATURES, input_shape)
    if num_levels and len(levels) != num_levels:
        raise ValueError(
            f"{head} reads {num_levels} {'level' if num_levels == 1 else 'levels'}; "
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {keys.IN_FEATURES}"
        )
    unread = {f"SEM_SEG_HEAD.{key}": part for key, part in KEYS_OF_SOME.items() if key not in reads}
    refuse_keys(cfg, head, {**unread, **(lacks or {})})
    check_common_stride(cfg, next(iter(levels.values())).stride)
    return {
        **common_arguments(cfg),
        "input_shape": levels,
        "channels": keys.CONVS_DIM,
        "norm": resolve_norm(keys.NORM),
    }


def common_arguments(cfg: Any) -> dict[str, Any]:
    """The constructor arguments of SegmentationHead that every head reads from the same keys."""
    head = cfg.MODEL.SEM_SEG_HEAD
    one_of(head.LOSS_TYPE, ("cross_entropy",), key="MODEL.SEM_SEG_HEAD.LOSS_TYPE")
    return {
        "num_classes": head.NUM_CLASSES,
        "dropout": head.DROPOUT,
        "loss": SegmentationLoss(
            ignore_value=head.IGNORE_VALUE,
            weight=head.LOSS_WEIGHT,
            options=LossOptions.from_config(cfg),
        ),
    }


def check_common_stride(cfg: Any, stride: int) -> None:
    """ValueError where COMMON_STRIDE is not the stride of the logits."""
    stated = cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
    if stated != stride:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {stated}, "
            f"but the logits of these IN_FEATURES have stride {stride}; set it to {stride}"
        )


def refuse_keys(cfg: Any, head: str, lacks: Mapping[str, str]) -> None:
    """ValueError for a key of MODEL that is set, although it means nothing for this head.

    lacks: a part of MODEL ("PYRAMID") or one of its keys ("FUSION.COMBINE") -> why the head has no such thing.
    """
    defaults = get_cfg()
    add_scaleeq_config(defaults)
    for part, reason in lacks.items():
        node, _, only = part.partition(".")
        for key in [only] if only else cfg.MODEL[node]:
            value, default = cfg.MODEL[node][key], defaults.MODEL[node][key]
            if value != default:
                raise ValueError(f"MODEL.{node}.{key} is {value!r}, but {head} has no {reason}; leave it {default!r}")
