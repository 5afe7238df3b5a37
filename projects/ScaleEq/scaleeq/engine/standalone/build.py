"""The three registries in which a config chooses by name, and the builders that read them.

Source: Detectron2's modeling/meta_arch/build.py, modeling/backbone/build.py, modeling/meta_arch/semantic_seg.py;
the Registry is fvcore's, as there.
Deviations: the registries start empty (none of Detectron2's own models is here), and no usage is reported to torch.
"""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.registry import Registry
from torch import nn

from .backbone import Backbone
from .config import CfgNode
from .shape_spec import ShapeSpec

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
