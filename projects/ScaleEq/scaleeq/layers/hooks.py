"""Hooks: what looks at a module's call sees nothing where its work is done in another way."""

from __future__ import annotations

from torch import nn


def has_hooks(module: nn.Module) -> bool:
    """Whether something is run when this module is called, or when gradients pass it."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
