"""What half precision may not hold."""

from __future__ import annotations

import torch


def is_reduced(dtype: torch.dtype) -> bool:
    """Whether a dtype is narrower than float32."""
    return dtype.itemsize < torch.float32.itemsize
