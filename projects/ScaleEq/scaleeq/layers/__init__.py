"""Small shared modules."""

from .conv import ConvNormAct, conv_with_input_scale
from .norm import BatchNorm2d, NormFactory, batch_norm, norm_factory
from .offset_conv import OffsetConv2d, fold_input_affine

__all__ = [
    "BatchNorm2d",
    "ConvNormAct",
    "NormFactory",
    "OffsetConv2d",
    "batch_norm",
    "conv_with_input_scale",
    "fold_input_affine",
    "norm_factory",
]
