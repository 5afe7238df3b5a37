"""Image -> {"res2": ..., "res5": ...}. Importing this package registers the backbones by name (MODEL.BACKBONE.NAME)."""

from .hrnet import HRNetBackbone, build_gsto_hrnet_backbone
from .timm import TimmBackbone, build_timm_backbone

__all__ = ["HRNetBackbone", "TimmBackbone", "build_gsto_hrnet_backbone", "build_timm_backbone"]
