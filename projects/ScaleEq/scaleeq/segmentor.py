"""ScaleEqSegmentor under its name in the engine's registry, MODEL.META_ARCHITECTURE: built of a config."""

from __future__ import annotations

from typing import Any

from scaleeq.backbones import PlainBackbone
from scaleeq.backbones import registered as backbones  # noqa: F401  (registers them)
from scaleeq.engine import META_ARCH_REGISTRY, build_backbone, build_sem_seg_head, get_cfg
from scaleeq.fusion import evaluate_fusions
from scaleeq.model import ScaleEqSegmentor
from scaleeq.names import check_names
from scaleeq.tasks import build_tasks
from scaleeq.tasks import detectron2 as heads  # noqa: F401  (registers them)
from scaleeq.tasks.auxiliary import auxiliary_heads, auxiliary_losses


def build_segmentor(cfg: Any) -> ScaleEqSegmentor:
    """The model of a config; ValueError: a name or a value that cannot be meant."""
    check_names(cfg)
    if "fpn" not in cfg.MODEL.BACKBONE.NAME and cfg.MODEL.FPN != get_cfg().MODEL.FPN:
        raise ValueError("MODEL.FPN is set, but ScaleEqSegmentor does not read it; use MODEL.PYRAMID")
    backbone: Any = build_backbone(cfg)
    shapes = backbone.output_shape()
    (task,) = build_tasks(cfg).values()
    head, aux_heads = build_sem_seg_head(cfg, shapes), auxiliary_heads(cfg, task, shapes)
    plain = isinstance(backbone, PlainBackbone)  # or Detectron2's own
    if plain:
        backbone.keep_levels({*getattr(head, "in_features", shapes), *aux_heads})
    model = ScaleEqSegmentor(
        backbone=backbone,
        sem_seg_head=head,
        aux_heads=aux_heads,
        aux_losses=auxiliary_losses(cfg, backbone.aux_loss_weights if plain else {}),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    evaluate_fusions(model, cfg.MODEL.FUSION.EVALUATE)  # those of the backbone and of auxiliary heads too
    return model


build_segmentor.__name__ = ScaleEqSegmentor.__name__  # a registry knows a function by it
META_ARCH_REGISTRY.register(build_segmentor)
