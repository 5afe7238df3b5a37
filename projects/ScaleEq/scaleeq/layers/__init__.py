"""Small shared modules."""

from .conv import ConvNormAct, conv_with_input_scale, per_weight
from .fills import caffe2_xavier_
from .gate import Gate, LogitsGate, SupervisedGate, collected_logits
from .hooks import has_hooks, is_recorded
from .level import Level
from .named import Named
from .norm import BatchNorm2d, NormFactory, batch_norm, norm_factory, normalizes_channels, replace_batch_norms
from .offset_conv import OffsetConv2d, fold_input_affine
from .precision import WideBuffers, is_reduced
from .separable import SeparableBlock, SeparableConv

__all__ = [
    "BatchNorm2d",
    "ConvNormAct",
    "Gate",
    "Level",
    "LogitsGate",
    "Named",
    "NormFactory",
    "OffsetConv2d",
    "SeparableBlock",
    "SeparableConv",
    "SupervisedGate",
    "WideBuffers",
    "batch_norm",
    "caffe2_xavier_",
    "collected_logits",
    "conv_with_input_scale",
    "fold_input_affine",
    "has_hooks",
    "is_recorded",
    "is_reduced",
    "norm_factory",
    "normalizes_channels",
    "per_weight",
    "replace_batch_norms",
]
