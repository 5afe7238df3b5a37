"""ScaleEqSegmentor under its name in the engine's registry, MODEL.META_ARCHITECTURE: built of a config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from scaleeq.backbones import PlainBackbone
from scaleeq.backbones import registered as backbones  # noqa: F401  (registers them)
from scaleeq.config.detection import PYRAMID_BACKBONES
from scaleeq.detection import configured as detectors  # noqa: F401  (registers it)
from scaleeq.detection import pixel_decoder  # noqa: F401  (registers it)
from scaleeq.detection import registered as pyramid_backbones  # noqa: F401  (registers them)
from scaleeq.engine import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head, get_cfg
from scaleeq.fusion import evaluate_fusions
from scaleeq.model import ScaleEqSegmentor
from scaleeq.names import check_names
from scaleeq.tasks import detectron2 as heads  # noqa: F401  (registers them)
from scaleeq.tasks.auxiliary import auxiliary_heads, auxiliary_losses
from scaleeq.tasks.detectron2 import build_joint
from scaleeq.tasks.registry import task_names

if TYPE_CHECKING:
    from yacs.config import CfgNode


def build_segmentor(cfg: CfgNode) -> ScaleEqSegmentor:
    """The model of a config; ValueError: a name or a value that cannot be meant."""
    check_names(cfg)
    has_pyramid = "fpn" in cfg.MODEL.BACKBONE.NAME or cfg.MODEL.BACKBONE.NAME in PYRAMID_BACKBONES
    if not has_pyramid and cfg.MODEL.FPN != get_cfg().MODEL.FPN:
        raise ValueError("MODEL.FPN is set, but ScaleEqSegmentor does not read it; use MODEL.PYRAMID")
    backbone: Any = build_backbone(cfg)
    shapes = backbone.output_shape()
    parts, in_features = build_parts(cfg, shapes)
    aux_heads = auxiliary_heads(cfg, shapes)
    plain = isinstance(backbone, PlainBackbone)  # or Detectron2's own
    if plain:
        backbone.keep_levels({*in_features, *aux_heads})
    model = ScaleEqSegmentor(
        backbone=backbone,
        **parts,
        aux_heads=aux_heads,
        aux_losses=auxiliary_losses(cfg, backbone.aux_loss_weights if plain else {}),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    evaluate_fusions(model, cfg.MODEL.FUSION.EVALUATE)  # those of the backbone and of auxiliary heads too
    return model


def without_pretrained(cfg: CfgNode) -> CfgNode:
    """A copy of a config, not frozen, whose backbone starts without weights: all are in a file, or none are needed."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.PRETRAINED_FILE = False, ""
    return cfg


def build_parts(cfg: CfgNode, shapes: dict[str, Any]) -> tuple[dict[str, Any], Iterable[str]]:
    """The head of one task, or the decoders of several: arguments of ScaleEqSegmentor; and the levels that they read.

    shapes: of the backbone's levels.
    """
    if len(task_names(cfg)) == 1:
        head = build_sem_seg_head(cfg, shapes)
        return {"sem_seg_head": head}, getattr(head, "in_features", shapes)
    decoders, tasks = build_joint(cfg, shapes)
    weights = dict(zip(tasks, cfg.MODEL.TASKS.WEIGHTS, strict=True)) if cfg.MODEL.TASKS.WEIGHTS else {}
    return {"decoders": decoders, "tasks": tasks, "task_weights": weights}, decoders.in_features


build_segmentor.__name__ = ScaleEqSegmentor.__name__  # a registry knows a function by it
META_ARCH_REGISTRY.register(build_segmentor)
