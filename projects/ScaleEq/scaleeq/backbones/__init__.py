"""Normalized image -> {"res2": ..., "res5": ...}. registered.py registers them by name (MODEL.BACKBONE.NAME)."""

from .base import PlainBackbone
from .hrnet import HRNetBackbone
from .timm import TimmBackbone

__all__ = ["HRNetBackbone", "PlainBackbone", "TimmBackbone"]
