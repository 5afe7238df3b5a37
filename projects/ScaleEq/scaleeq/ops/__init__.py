"""Pure tensor functions: no module, no config."""

from .argmax import Argmax, resized_argmax
from .deform_conv import deform_conv3x3
from .equalize import equalize_branch
from .pooling import pool_half
from .resize import resize
from .send import send
from .variance import upsampled_variance_factor

__all__ = [
    "Argmax",
    "deform_conv3x3",
    "equalize_branch",
    "pool_half",
    "resize",
    "resized_argmax",
    "send",
    "upsampled_variance_factor",
]
