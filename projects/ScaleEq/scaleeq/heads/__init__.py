"""Heads: features -> logits. Importing this package registers them in the engine's SEM_SEG_HEADS_REGISTRY."""

from .aspp import ASPPHead
from .base import SegmentationHead
from .eseg import ESegHead
from .fcn import FCNHead
from .psp import PSPHead
from .semantic_fpn import SemanticFPNHead
from .sep_aspp import SepASPPHead
from .uper import UPerHead

__all__ = [
    "ASPPHead",
    "ESegHead",
    "FCNHead",
    "PSPHead",
    "SegmentationHead",
    "SemanticFPNHead",
    "SepASPPHead",
    "UPerHead",
]
