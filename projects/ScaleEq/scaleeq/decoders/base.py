"""What every decoder is: features -> one map of a stated width and stride. It knows no classes, loss or config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from scaleeq.layers import Level

Features = Mapping[str, torch.Tensor]


class Decoder(nn.Module):
    """Base of the decoders: a subclass builds its Fusions and says in `forward` in which order they run.

    in_features: the levels that it reads, finest first; out: width and stride of its map, the finest level's stride.
    """

    def __init__(self, levels: Mapping[str, Level], channels: int):
        """
        Args:
            levels: finest first: name -> channels and stride; ValueError for another order.
            channels: width of the map.
        """
        super().__init__()
        refuse_levels(levels)
        self.in_features = list(levels)
        self.out = Level(channels, levels[self.in_features[0]].stride)

    def forward(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) of the finest level's size."""
        raise NotImplementedError


class PyramidDecoder(Decoder):
    """A decoder in two steps: `pyramid_levels`, which several tasks may share, and what makes one map of them.

    pyramid_parts: the modules of the first step, by their names: the pyramid, and a context that makes its top level.
    """

    pyramid_parts: ClassVar[tuple[str, ...]] = ("pyramid",)

    def pyramid_levels(self, features: Features) -> dict[str, torch.Tensor]:
        """features: level -> (N, C_level, H_level, W_level) -> level -> map of the pyramid."""
        raise NotImplementedError

    def fused(self, levels: Features) -> torch.Tensor:
        """levels: of `pyramid_levels` -> (N, channels, H, W) of the finest level's size."""
        raise NotImplementedError

    def forward(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) of the finest level's size."""
        return self.fused(self.pyramid_levels(features))

    def drop_parts(self, *, of_pyramid: bool) -> None:
        """Remove the modules of the first step, or those of the second one, which another decoder then has."""
        # A list, since names leave the dict while it is walked through.
        for name in list(self._modules):
            if (name in self.pyramid_parts) == of_pyramid:
                delattr(self, name)


def widths_of(levels: Mapping[str, Level]) -> dict[str, int]:
    """Level -> channels."""
    return {name: level.channels for name, level in levels.items()}


def refuse_levels(levels: object) -> None:
    """ValueError for what is not level -> channels and stride, finest first."""
    if not isinstance(levels, Mapping) or not levels:
        given = "empty" if isinstance(levels, Mapping) else f"a {type(levels).__name__}"
        raise ValueError(f"levels is {given}; give name -> Level(channels, stride), finest first")
    for name, level in levels.items():
        numbers = [getattr(level, key, None) for key in ("channels", "stride")]
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            raise ValueError(f"level {name!r} of levels is {level!r}; give Level(channels, stride)")
    # Decoders take the first level as the reference and the last one as the context's.
    strides = {name: level.stride for name, level in levels.items()}
    if list(strides.values()) != sorted(strides.values()):
        ordered = ", ".join(sorted(strides, key=strides.__getitem__))
        raise ValueError(f"levels has strides {strides}; give the levels finest first: {ordered}")


def take_levels(levels: Mapping[str, Level], number: int, decoder: str) -> list[Level]:
    """The levels of a decoder that reads so many; ValueError for more or fewer."""
    if len(levels) != number:
        counted = "level" if number == 1 else "levels"
        raise ValueError(f"{decoder} reads {number} {counted}; levels has {', '.join(levels)}")
    return list(levels.values())
