"""What every head shares: a classifier, a loss and Detectron2's head protocol.

A head is a constructor from (cfg, input_shape), a pure `logits(features)` and `forward(features, targets)` -> (logits
or None, losses), so it also works inside Detectron2's SemanticSegmentor and PanopticFPN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..engine import ShapeSpec, comm
from ..fusion import EqualizerSpec
from ..layers import NormFactory, norm_factory
from ..losses import LossOptions, SegmentationLoss

Features = Mapping[str, torch.Tensor]


class Level(NamedTuple):
    """One level of a backbone: channels, and stride in pixels of the image."""

    channels: int
    stride: int


class SegmentationHead(nn.Module):
    """Base of the heads: subclasses define `fuse(features)`, the map that is classified.

    Args:
        in_features: the levels used, finest first.
        channels: width of the map that is classified.
        common_stride: stride of the logits, pixels.
        dropout: share of channels dropped before the classifier.
    """

    def __init__(
        self,
        *,
        in_features: list[str],
        channels: int,
        num_classes: int,
        common_stride: int,
        dropout: float = 0.1,
        loss: SegmentationLoss | None = None,
    ):
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"NUM_CLASSES is {num_classes}; a head needs at least one class")
        self.in_features = in_features
        self.common_stride = common_stride
        self.loss = SegmentationLoss() if loss is None else loss
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.constant_(self.classifier.bias, 0)  # type: ignore[arg-type]

    @property
    def ignore_value(self) -> int:
        """The label without a loss; Detectron2's segmentors pad labels with it."""
        return self.loss.ignore_value

    def fuse(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) at common_stride."""
        raise NotImplementedError

    def logits(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, num_classes, H, W) at common_stride."""
        return self.classifier(self.dropout(self.fuse(features)))

    def forward(
        self, features: Features, targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """targets: (N, H, W) labels -> (None, losses) in training, else (logits (N, K, H, W) at stride 1, {})."""
        logits = self.logits(features)
        if self.training:
            if targets is None:
                raise ValueError("a head in training needs targets: (N, H, W) labels")
            return None, {"loss_sem_seg": self.loss(logits, targets)}
        stride = self.common_stride
        return F.interpolate(logits, scale_factor=stride, mode="bilinear", align_corners=False), {}


def resolve_norm(name: str) -> NormFactory | None:
    """The norm of a NORM key. "SyncBN" is the engine's, and plain BN where one process trains alone."""
    if name == "SyncBN":
        if comm.get_world_size() == 1:
            return norm_factory("BN")
        from ..engine import NaiveSyncBatchNorm

        return NaiveSyncBatchNorm
    return norm_factory(name)


def resolve_levels(levels: list[str], input_shape: Mapping[str, ShapeSpec]) -> dict[str, Level]:
    """The levels of IN_FEATURES, finest first. ValueError, with the levels that there are, for another one."""
    missing = [level for level in levels if level not in input_shape]
    if missing or not levels:
        raise ValueError(f"IN_FEATURES is {levels}; the backbone has {', '.join(input_shape)}")
    found = {level: Level(input_shape[level].channels or 0, input_shape[level].stride or 0) for level in levels}
    return dict(sorted(found.items(), key=lambda item: item[1].stride))


def common_arguments(cfg: Any) -> dict[str, Any]:
    """The constructor arguments of SegmentationHead that every head reads from the same keys."""
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.LOSS_TYPE != "cross_entropy":
        raise ValueError(f"MODEL.SEM_SEG_HEAD.LOSS_TYPE is {head.LOSS_TYPE!r}; choose 'cross_entropy'")
    return {
        "num_classes": head.NUM_CLASSES,
        "dropout": head.DROPOUT,
        "loss": SegmentationLoss(
            ignore_value=head.IGNORE_VALUE,
            weight=head.LOSS_WEIGHT,
            options=LossOptions.from_config(cfg),
        ),
    }


def check_common_stride(cfg: Any, stride: int) -> int:
    """The stride of the logits; ValueError where COMMON_STRIDE states another."""
    stated = cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE
    if stated != stride:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.COMMON_STRIDE is {stated}, "
            f"but the logits of these IN_FEATURES have stride {stride}; set it to {stride}"
        )
    return stride


def refuse_keys(cfg: Any, head: str, *keys: str) -> None:
    """ValueError for a key of MODEL that is set, although the head has no such part."""
    for key in keys:
        node, name = key.split(".")
        value = cfg.MODEL[node][name]
        if value:
            raise ValueError(f"MODEL.{key} is {value!r}, but {head} has no {node.lower()}; leave it ''")


def equalizer_specs(cfg: Any) -> dict[str, EqualizerSpec | None]:
    """Which Fusions are equalized: "head" and "pyramid" -> spec or None, from MODEL.SCALE_EQUALIZER."""
    keys = cfg.MODEL.SCALE_EQUALIZER
    if keys.SCOPE not in ("head", "all"):
        raise ValueError(f"MODEL.SCALE_EQUALIZER.SCOPE is {keys.SCOPE!r}; choose one of head, all")
    if not keys.ENABLED:
        return {"head": None, "pyramid": None}
    spec = EqualizerSpec(
        implementation=keys.IMPLEMENTATION,
        granularity=keys.GRANULARITY,
        statistic=keys.STATISTIC,
        statistics_of=keys.STATISTICS_OF,
    )
    return {"head": spec, "pyramid": spec if keys.SCOPE == "all" else None}
