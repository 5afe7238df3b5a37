"""Scales that weights in half precision cannot hold: refused, because they would be infinite there, or lost."""

from __future__ import annotations

import torch

from scaleeq.fusion import Fusion
from scaleeq.layers import is_reduced, per_weight

LOST = 0.01  # of the norm of a branch's weights, relative; a bfloat16 loses 0.4 % at most


@torch.no_grad()
def refuse_misfit(fusion: Fusion) -> None:
    """ValueError where weights in half precision cannot hold what a branch's scale makes of them."""
    conv = fusion.consumer
    if conv is None or not is_reduced(conv.weight.dtype):
        return
    # Each branch alone: a large one would hide what a small one loses.
    weight, kind = conv.weight.double(), str(conv.weight.dtype).removeprefix("torch.")
    start, scales = 0, torch.cat([equalizer.scale() for equalizer in fusion.equalizer_of.values()]).double()
    for name, equalizer in fusion.equalizer_of.items():
        of_branch = torch.zeros_like(scales)
        of_branch[start : start + equalizer.channels] = scales[start : start + equalizer.channels]
        start += equalizer.channels
        scaled = weight * per_weight(conv, of_branch)
        change = scaled.to(conv.weight.dtype).double() - scaled
        if not change.norm() <= LOST * scaled.norm():  # nor where the change is infinite
            raise ValueError(
                f"branch {name!r} has a std of {float(equalizer.std.min()):.3g}, and {kind} weights cannot hold what a "
                "division by it makes of them: use float32 or bfloat16, to fold as well, or implementation 'module', "
                "which keeps the equalizer beside the weights"
            )
