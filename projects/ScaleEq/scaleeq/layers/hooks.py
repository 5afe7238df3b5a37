"""What looks at a call sees nothing of it where its work is done in another way."""

from __future__ import annotations

import torch
from torch import nn


def has_hooks(part: object) -> bool:
    """Whether something is run when this is called, or when gradients pass it; what is no module has no hooks."""
    if not isinstance(part, nn.Module):
        return False
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def is_recorded(x: torch.Tensor) -> bool:
    """Whether the operations on x: any shape, are what counts: traced, compiled, exported, or only counted."""
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or x.device.type == "meta":
        return True
    return any(type(size) is not int for size in x.shape)
