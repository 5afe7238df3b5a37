"""Feature pyramid network (arXiv 1612.03144): a top-down chain of two-branch Fusions.

What differs between FPN, FaPN and their ablations are the laterals, the transfers and which levels have an output
convolution: `FPN` takes them as they are, plain.py builds the common ones, fapn.py FaPN's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from scaleeq.fusion import Branch, Fusion, Resize, Transfer, make_combine

from .chain import Chain


class FPN(nn.Module):
    """Levels in -> levels out, all of one width.

    At every level but the top: merged = mix(combine(lateral(x), transfer(merged of the level above))), output = output
    convolution of merged.
    """

    def __init__(
        self,
        in_channels: Mapping[str, int],
        channels: int,
        *,
        top: nn.Module | None = None,
        lateral: Callable[[int], nn.Module],
        transfer: Callable[[], Transfer] = Resize,
        combine: str = "sum",
        mix: Callable[[], nn.Module] | None = None,
        outputs: Mapping[str, nn.Module],
    ):
        """
        Args:
            in_channels: level -> channels, from the finest level to the coarsest.
            channels: width of the pyramid.
            top: lateral of the coarsest level; None: it is `channels` wide already (a context module made it).
            lateral: channels of a level -> its lateral.
            transfer: makes the transfer of one level's top-down branch.
            combine: of a lateral with its top-down branch, "sum", "softmax" or "fast_normalized".
            mix: makes what consumes one level's sum; None: nothing. The level below continues after it.
            outputs: level -> output convolution, for those that have one.
        """
        super().__init__()
        self.levels = list(in_channels)
        self.top = self.levels[-1]
        self.out_channels = dict.fromkeys(self.levels, channels)
        self.top_lateral = nn.Identity() if top is None else top
        self.merges = Chain(
            {
                level: Fusion(
                    {
                        "lateral": Branch(channels, lateral=lateral(in_channels[level])),
                        "top_down": Branch(channels, transfer=transfer()),
                    },
                    combine=make_combine(combine, 2),
                    mix=None if mix is None else mix(),
                )
                for level in reversed(self.levels[:-1])
            },
            carried="top_down",
        )
        self.outputs = nn.ModuleDict(outputs)

    def keep_outputs(self, levels: Sequence[str]) -> None:
        """Let `levels` alone leave the pyramid; the output convolutions of the others go."""
        self.out_channels = {level: width for level, width in self.out_channels.items() if level in levels}
        self.outputs = nn.ModuleDict({level: conv for level, conv in self.outputs.items() if level in levels})

    def forward(self, features: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """features: level -> (N, C_i, H_i, W_i) -> output level -> (N, channels, H_i, W_i), finest first."""
        top = self.top_lateral(features[self.top])
        merged = self.merges(top, {level: {"lateral": features[level]} for level in self.levels[:-1]})
        merged[self.top] = top
        return {
            level: self.outputs[level](merged[level]) if level in self.outputs else merged[level]
            for level in self.out_channels
        }
