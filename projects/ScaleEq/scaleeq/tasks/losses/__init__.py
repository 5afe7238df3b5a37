"""Losses on logits, and how they average over pixels. docs/losses.md is the table of MODEL.LOSS."""

from .averaging import Averaging, prepare_step
from .ohem import OHEM_KINDS, annealed_share, threshold_labels, top_k_labels
from .options import LossOptions
from .pixels import AVERAGES, cross_entropy, focal_loss, pixel_count
from .regions import dice_loss, labelled_classes, lovasz_softmax
from .segmentation import SegmentationLoss

__all__ = [
    "AVERAGES",
    "Averaging",
    "OHEM_KINDS",
    "LossOptions",
    "SegmentationLoss",
    "annealed_share",
    "cross_entropy",
    "dice_loss",
    "focal_loss",
    "labelled_classes",
    "lovasz_softmax",
    "pixel_count",
    "prepare_step",
    "threshold_labels",
    "top_k_labels",
]
