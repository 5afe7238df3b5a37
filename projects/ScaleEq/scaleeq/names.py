"""The names of MODEL that registries know."""

from __future__ import annotations

from scaleeq.choices import one_of
from scaleeq.config.check import OUR_ARCHITECTURES
from scaleeq.config.detection import DETECTRON2_DETECTORS
from scaleeq.engine import BACKBONE_REGISTRY, FEATURES, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY, CfgNode


def check_names(cfg: CfgNode) -> None:
    """ValueError, with the choices, for a name of MODEL that nothing is registered under."""
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture in DETECTRON2_DETECTORS and not FEATURES.detection:
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {architecture!r} is Detectron2's, which is not here (docs/engine.md); configs of "
            "torchvision's detectors begin with coco/torchvision_"
        )
    names = {"META_ARCHITECTURE": (cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY)}
    if cfg.MODEL.META_ARCHITECTURE in OUR_ARCHITECTURES:  # Detectron2's may read neither of these
        names["BACKBONE.NAME"] = (cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY)
        names["SEM_SEG_HEAD.NAME"] = (cfg.MODEL.SEM_SEG_HEAD.NAME, SEM_SEG_HEADS_REGISTRY)
    for key, (name, registry) in names.items():
        one_of(name, [registered for registered, _ in registry], key=f"MODEL.{key}")
