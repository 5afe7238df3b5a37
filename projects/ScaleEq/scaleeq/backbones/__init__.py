"""Image -> {"res2": ..., "res5": ...}. Importing this package registers the backbones by name (MODEL.BACKBONE.NAME)."""

from .timm import TimmBackbone, build_timm_backbone

__all__ = ["TimmBackbone", "build_timm_backbone"]
