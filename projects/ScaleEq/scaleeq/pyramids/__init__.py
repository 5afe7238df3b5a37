"""Pyramids: graphs of Fusions over named levels."""

from .bifpn import BiFPN
from .build import NoPyramid, PyramidOptions, build_pyramid
from .fapn import fapn, fapn_realtime
from .fpn import FPN, fpn, smoothed_fpn

__all__ = [
    "FPN",
    "BiFPN",
    "NoPyramid",
    "PyramidOptions",
    "build_pyramid",
    "fapn",
    "fapn_realtime",
    "fpn",
    "smoothed_fpn",
]
