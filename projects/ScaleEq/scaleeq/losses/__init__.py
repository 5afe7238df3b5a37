"""Losses on logits, and how they average over pixels. docs/losses.md is the table of MODEL.LOSS."""

from .ohem import OHEM_KINDS
from .options import LossOptions
from .pixels import AVERAGES, cross_entropy, focal_loss, pixel_count
from .segmentation import SegmentationLoss, prepare_step

__all__ = [
    "AVERAGES",
    "OHEM_KINDS",
    "LossOptions",
    "SegmentationLoss",
    "cross_entropy",
    "focal_loss",
    "pixel_count",
    "prepare_step",
]
