"""Small shared modules."""

from .conv import ConvNormAct, conv_with_input_scale, per_weight
from .gate import Gate, SupervisedGate
from .norm import BatchNorm2d, NormFactory, batch_norm, norm_factory
from .offset_conv import OffsetConv2d, fold_input_affine
from .separable import SeparableConv

__all__ = [
    "BatchNorm2d",
    "ConvNormAct",
    "Gate",
    "NormFactory",
    "OffsetConv2d",
    "SeparableConv",
    "SupervisedGate",
    "batch_norm",
    "conv_with_input_scale",
    "fold_input_affine",
    "norm_factory",
    "per_weight",
]
