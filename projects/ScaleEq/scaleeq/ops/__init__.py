"""Pure tensor functions: no module, no config."""

from .deform_conv import deform_conv3x3
from .equalize import equalize_branch
from .resize import resize

__all__ = ["deform_conv3x3", "equalize_branch", "resize"]
