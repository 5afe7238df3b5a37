"""PAD-Net's distillation (Xu et al., arXiv 1805.04409, section 3.3): first predictions of all tasks guide each one.

Of its three forms the attention-guided one, C: with F_k the task's own features and F_t those of the other tasks'
predictions,

    F'_k = F_k + sum over t of  G_k * (W_t (x) F_t),   G_k = sigmoid(W_g (x) F_k)

It is a Fusion: the task's own branch is the reference, another task's branch has as its lateral the convolutions that
make features of its prediction, and as its transfer the gate; all are summed, and a convolution block stands for the
task's final decoder. So scale equalizers, calibration, folding and records know it like any other.

Deviations: F_k is the decoder's map, from which the first prediction is made, not a function of it; each pair of tasks
has a gate of its own; W_t and the convolution that makes F_t are one 3x3 block. All maps have the decoder's stride.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from scaleeq.fusion import Branch, Fusion, make_combine
from scaleeq.layers import ConvNormAct, NormFactory
from scaleeq.ops import resize

from .interaction import Interaction, register_interaction

OWN = "own"


class Attended(nn.Module):
    """A transfer: x times a gate that the reference computes, sigmoid of a 3x3 convolution."""

    keeps_constants = False

    def __init__(self, channels: int):
        super().__init__()
        self.attention = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(self.attention.weight, std=0.001)  # begins at one half everywhere
        nn.init.zeros_(self.attention.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """x: (N, C, h, w); reference: (N, C, H, W) -> (N, C, H, W)."""
        size = (reference.shape[-2], reference.shape[-1])
        return resize(x, size) * self.attention(reference).sigmoid()


@register_interaction("pad_net")
class PadNet(Interaction):
    """fusion (own map + attended messages), then a 3x3 convolution block."""

    def __init__(self, width: int, others: Mapping[str, int], *, norm: NormFactory | None):
        super().__init__(width, others, norm=norm)
        branches = {OWN: Branch(width)} | {
            task: Branch(
                width, lateral=ConvNormAct(channels, width, kernel_size=3, norm=norm), transfer=Attended(width)
            )
            for task, channels in others.items()
        }
        mix = ConvNormAct(width, width, kernel_size=3, norm=norm)
        self.fusion = Fusion(branches, combine=make_combine("sum", len(branches)), mix=mix)

    def forward(self, fused: torch.Tensor, first: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """fused: (N, width, h, w); first: other task -> (N, its channels, h, w) -> (N, width, h, w)."""
        return self.fusion({OWN: fused, **first})
