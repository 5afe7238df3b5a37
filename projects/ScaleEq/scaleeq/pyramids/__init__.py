"""Pyramids: graphs of Fusions over named levels."""

from .bifpn import BiFPN
from .fapn import fapn, fapn_realtime, maskformer_fam
from .fpn import FPN, fpn

__all__ = ["BiFPN", "FPN", "fapn", "fapn_realtime", "fpn", "maskformer_fam"]
