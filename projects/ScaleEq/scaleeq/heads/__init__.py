"""Heads: features -> logits. Importing this package registers them in the engine's SEM_SEG_HEADS_REGISTRY."""

from .base import SegmentationHead
from .fcn import FCNHead
from .uper import UPerHead

__all__ = ["FCNHead", "SegmentationHead", "UPerHead"]
