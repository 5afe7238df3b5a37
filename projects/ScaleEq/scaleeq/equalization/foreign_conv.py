"""A convolution of somebody else's model, seen as a Fusion: its input channels are the branches of a concatenation.

The convolution stays the object that it was, with its parameters; only the place that it had in its model
is taken by the Fusion, until the equalizers are folded and the convolution gets it back, with its class and its keys.
The class can hold a mean only in a bias, and only where no zero padding makes a border that a bias would be wrong in
(section "Folding" of docs/scale_equalizers.md); elsewhere branches are divided by their std and not centred. Before a
batch norm that loses nothing: it removes a constant per channel anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from scaleeq.fusion import Branch, Concat, Fusion
from scaleeq.layers import conv_with_input_scale, per_weight


class ChannelSlice(nn.Module):
    """`width` channels of a map, from `start` on, as a view."""

    def __init__(self, start: int, width: int):
        super().__init__()
        self.start = start
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, C, H, W) -> (N, width, H, W)."""
        return x.narrow(1, self.start, self.width)

    def extra_repr(self) -> str:
        return f"{self.start}:{self.start + self.width}"


class KeptConv(nn.Module):
    """A convolution as what consumes a concatenation; folded in place, so that it stays the same object."""

    def __init__(self, conv: nn.Conv2d, *, scale_invariant: str = ""):
        """scale_invariant: why a scale on an input channel changes nothing; empty where it does."""
        super().__init__()
        self.conv = conv
        self.scale_invariant = scale_invariant

    def forward(self, x: torch.Tensor, input_scale: torch.Tensor | None = None) -> torch.Tensor:
        """x: (N, C_in, H, W); input_scale: (C_in,) -> (N, C_out, H', W')."""
        return conv_with_input_scale(self.conv, x, input_scale)

    @property
    def consumer(self) -> nn.Conv2d:
        """The convolution that reads the input."""
        return self.conv

    @torch.no_grad()
    def fold_input_affine(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        """Make the convolution compute what it did on `x * scale + shift`, each (C_in,), in place and exactly."""
        weight = self.conv.weight.double()
        if shift.any():
            if self.conv.bias is None or zero_padded(self.conv):
                raise ValueError(cannot_center(self.conv))
            constant = (weight * per_weight(self.conv, shift.double())).sum((1, 2, 3))
            self.conv.bias.copy_(self.conv.bias.double() + constant)
        self.conv.weight.copy_(weight * per_weight(self.conv, scale.double()))


class ConvFusion(Fusion):
    """A convolution and the concatenation that it reads.

    Args:
        conv: stays the same object; the ConvFusion is what has to be put into its place.
        widths: branch -> channels, in the order of concatenation; together conv.in_channels.
        scale_invariant: why a scale on an input channel changes nothing; empty where it does.

    Raises:
        ValueError: widths that do not add up; a scale that the convolution cannot hold.
    """

    def __init__(self, conv: nn.Conv2d, widths: Mapping[str, int], *, scale_invariant: str = ""):
        if min(widths.values(), default=0) < 1 or sum(widths.values()) != conv.in_channels:
            stated = " + ".join(map(str, widths.values())) or "none"
            raise ValueError(
                f"the widths are {stated} = {sum(widths.values())}, but the convolution has {conv.in_channels} "
                "input channels; give the width of each concatenated branch, in order"
            )
        if reason := cannot_scale(conv):
            raise ValueError(reason)
        branches, start = {}, 0
        for name, width in widths.items():
            branches[name] = Branch(width, lateral=ChannelSlice(start, width))
            start += width
        mix = KeptConv(conv, scale_invariant=scale_invariant)
        super().__init__(branches, combine=Concat(), mix=mix)
        self.train(conv.training)

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution itself."""
        return cast(KeptConv, self.mix).conv

    def __getattr__(self, name: str) -> Any:
        """What a model's own code reads of its convolution (stride, weight, ...) is the convolution's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            mix = self.__dict__.get("_modules", {}).get("mix")
            if mix is None or name.startswith("__"):
                raise
            return getattr(mix.conv, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What it writes there, too: a new weight, another stride."""
        mix = self.__dict__.get("_modules", {}).get("mix")
        own = mix is None or hasattr(type(self), name) or name in self.__dict__ or name in self._modules
        if own or not hasattr(mix.conv, name):
            super().__setattr__(name, value)
        else:
            setattr(mix.conv, name, value)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # named as nn.Conv2d names it
        """input: (N, C_in, H, W), the concatenation -> (N, C_out, H', W')."""
        if self.equalizers.changes_maps:
            return super().forward(input)
        if self.observer is not None:
            self.branch_maps(input)  # shows them
        return self.equalizers.mixed(self.mix, input)  # nobody changes the slices, so it is their concatenation


def zero_padded(conv: nn.Conv2d) -> bool:
    """Whether the convolution reads zeros beyond the border of its input."""
    if conv.padding_mode != "zeros":
        return False
    if conv.padding == "same":
        return any(size > 1 for size in conv.kernel_size)
    return conv.padding != "valid" and any(cast("tuple[int, ...]", conv.padding))


def cannot_center(conv: nn.Conv2d) -> str:
    """Why the convolution cannot hold the means of its inputs; empty where it can."""
    if conv.bias is None:
        return "center=True: the convolution has no bias to hold the means, and a batch norm after it removes them"
    if zero_padded(conv):
        return (
            "center=True: the convolution pads with zeros, and a bias that holds the means would be wrong along the "
            "border; leave center out, or use padding_mode 'reflect' or 'replicate'"
        )
    return ""


def cannot_scale(conv: nn.Conv2d) -> str:
    """Why scaled weights are not the same as scaled inputs for this convolution; empty where they are."""
    kind = type(conv).__name__
    if parametrize.is_parametrized(conv) or not isinstance(conv.weight, nn.Parameter):
        return "the convolution's weight is computed from others (parametrized): it cannot hold a scale"
    if type(conv).forward is not nn.Conv2d.forward or type(conv)._conv_forward is not nn.Conv2d._conv_forward:
        return f"{kind} has a forward of its own: that scaled weights do in it what scaled inputs do is not known"
    if conv._forward_pre_hooks or conv._forward_hooks:
        return "the convolution has forward hooks, which would no longer see what they did; remove them first"
    return ""


def exchange_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` into every place that `old` has in a model; the order of modules stays."""
    for module in list(model.modules()):
        if module is not new:
            for name, child in module._modules.items():
                if child is old:
                    setattr(module, name, new)
