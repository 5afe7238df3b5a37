"""Pure tensor functions: no module, no config."""

from .deform_conv import deform_conv3x3
from .equalize import equalize_branch
from .resize import resize
from .send import send
from .variance import upsampled_variance_factor

__all__ = ["deform_conv3x3", "equalize_branch", "resize", "send", "upsampled_variance_factor"]
