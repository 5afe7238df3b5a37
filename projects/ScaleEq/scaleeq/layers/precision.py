"""Scales and half precision: a scale may be too large, or a scaled weight too small, for the numbers that hold it.

The scale of a branch of std 1.2e-5 is 8e4, beyond float16, while its product with a weight may well be in range. So
statistics stay in float32 in a model of any precision, products are taken there, and what does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from scaleeq.ops.precision import is_reduced


class WideBuffers(nn.Module):
    """A module whose floating point buffers stay in float32 where a model is converted to half precision."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> WideBuffers:
        # Half precision drops digits that the old buffers still have.
        before = {name: b for name, b in self._buffers.items() if b is not None and b.is_floating_point()}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self._buffers[name]
            assert after is not None
            if is_reduced(after.dtype):
                self._buffers[name] = buffer.to(after.device, torch.float32)
        return self
