"""Pure tensor functions: no module, no config."""

from .equalize import equalize_branch
from .resize import resize

__all__ = ["equalize_branch", "resize"]
