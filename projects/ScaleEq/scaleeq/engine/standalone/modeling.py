"""Backbones, and the registries in which a config chooses by name with their builders.

Source: Detectron2's modeling/backbone/backbone.py, modeling/{meta_arch,backbone}/build.py and
modeling/meta_arch/semantic_seg.py; the Registry is fvcore's, as there.
Deviations: the registries start empty (none of Detectron2's own models is here), and no usage is reported to torch.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

import torch
from fvcore.common.registry import Registry
from torch import Tensor, nn

from .config import CfgNode
from .layers import ShapeSpec


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network whose outputs are feature maps with names.

    A subclass defines forward and either overrides output_shape or sets `_out_features` (names),
    `_out_feature_channels` and `_out_feature_strides` (name -> int).
    """

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """x: (N, C, H, W), images -> {name: (N, C_i, H_i, W_i)}."""

    @property
    def size_divisibility(self) -> int:
        """What height and width must be divisible by, in pixels; 0: anything goes."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further wishes for ImageList.from_tensors: "size_divisibility" and "square_size", in pixels; empty: none."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """{name: ShapeSpec(channels, stride)} of every output."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


META_ARCH_REGISTRY = Registry("META_ARCH")  # called with (cfg), returns the whole model
BACKBONE_REGISTRY = Registry("BACKBONE")  # called with (cfg, input ShapeSpec), returns a Backbone
SEM_SEG_HEADS_REGISTRY = Registry("SEM_SEG_HEADS")  # called with (cfg, {name: ShapeSpec}), returns a head


def build_model(cfg: CfgNode) -> nn.Module:
    """The model named by MODEL.META_ARCHITECTURE, on MODEL.DEVICE, without loading MODEL.WEIGHTS.

    Raises KeyError where nothing of that name is registered.
    """
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    model.to(torch.device(cfg.MODEL.DEVICE))
    return model


def build_backbone(cfg: CfgNode, input_shape: ShapeSpec | None = None) -> Backbone:
    """The backbone named by MODEL.BACKBONE.NAME; without input_shape its input has as many channels as PIXEL_MEAN.

    Raises KeyError where nothing of that name is registered, AssertionError where it builds no Backbone.
    """
    if input_shape is None:
        input_shape = ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN))
    name = cfg.MODEL.BACKBONE.NAME
    backbone = BACKBONE_REGISTRY.get(name)(cfg, input_shape)
    if not isinstance(backbone, Backbone):
        raise AssertionError(f"MODEL.BACKBONE.NAME {name!r} built a {type(backbone).__name__}, not a Backbone")
    return backbone


def build_sem_seg_head(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> Any:
    """The head named by MODEL.SEM_SEG_HEAD.NAME for features of input_shape. Raises KeyError as above."""
    return SEM_SEG_HEADS_REGISTRY.get(cfg.MODEL.SEM_SEG_HEAD.NAME)(cfg, input_shape)
