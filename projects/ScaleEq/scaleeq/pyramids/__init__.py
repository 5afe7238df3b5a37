"""Pyramids: graphs of Fusions over named levels."""

from .bifpn import BiFPN
from .build import NoPyramid, PyramidOptions, build_pyramid
from .fapn import fapn, fapn_realtime
from .fapn_weights import convert_fapn_weights
from .fpn import FPN
from .plain import fpn, smoothed_fpn

__all__ = [
    "FPN",
    "BiFPN",
    "NoPyramid",
    "PyramidOptions",
    "build_pyramid",
    "convert_fapn_weights",
    "fapn",
    "fapn_realtime",
    "fpn",
    "smoothed_fpn",
]
