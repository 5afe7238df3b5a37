"""Pyramids and heads: graphs of Fusions. Importing this package registers the heads in SEM_SEG_HEADS_REGISTRY."""

from .aspp import ASPPHead
from .base import SegmentationHead
from .bifpn import BiFPN
from .eseg import ESegHead
from .fapn import fapn, fapn_realtime
from .fapn_weights import convert_fapn_weights
from .fcn import FCNHead
from .fpn import FPN
from .plain import fpn, smoothed_fpn
from .psp import PSPHead
from .pyramid import NoPyramid, PyramidOptions, build_pyramid
from .semantic_fpn import SemanticFPNHead
from .sep_aspp import SepASPPHead
from .uper import UPerHead

__all__ = [
    "FPN",
    "ASPPHead",
    "BiFPN",
    "ESegHead",
    "FCNHead",
    "NoPyramid",
    "PSPHead",
    "PyramidOptions",
    "SegmentationHead",
    "SemanticFPNHead",
    "SepASPPHead",
    "UPerHead",
    "build_pyramid",
    "convert_fapn_weights",
    "fapn",
    "fapn_realtime",
    "fpn",
    "smoothed_fpn",
]
