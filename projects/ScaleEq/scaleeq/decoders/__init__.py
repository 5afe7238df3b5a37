"""Decoders and pyramids: graphs of Fusions, from features to one map. They know no classes, loss, config or engine."""

from .aspp import ASPP
from .base import Decoder, PyramidDecoder
from .bifpn import BiFPN
from .context import AtrousOptions, PoolingOptions
from .eseg import ESeg
from .fapn import fapn, fapn_realtime
from .fcn import FCN
from .final import FusionOptions
from .fpn import FPN
from .plain import fpn, smoothed_fpn
from .psp import PSP
from .pyramid import NoPyramid, PyramidOptions, build_pyramid
from .semantic_fpn import SemanticFPN
from .sep_aspp import SepASPP
from .uper import UPer

__all__ = [
    "ASPP",
    "FCN",
    "FPN",
    "PSP",
    "AtrousOptions",
    "BiFPN",
    "Decoder",
    "ESeg",
    "FusionOptions",
    "NoPyramid",
    "PoolingOptions",
    "PyramidDecoder",
    "PyramidOptions",
    "SemanticFPN",
    "SepASPP",
    "UPer",
    "build_pyramid",
    "fapn",
    "fapn_realtime",
    "fpn",
    "smoothed_fpn",
]
