"""Normalized image -> levels by name, such as {"res2": ..., "res5": ...}.

registered.py registers them by name (MODEL.BACKBONE.NAME).
"""

from .base import PlainBackbone
from .hrnet import HRNetBackbone
from .timm import TimmBackbone
from .vit import ViTBackbone

__all__ = ["HRNetBackbone", "PlainBackbone", "TimmBackbone", "ViTBackbone"]
