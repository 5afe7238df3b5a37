"""Convolution, normalisation, activation: the block that every decoder is made of (mmsegmentation's ConvModule).

Its convolution can be given a scale per input channel, so that the weights used are weight * scale: that is how a scale
equalizer is reparametrized into the block that consumes a concatenation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from scaleeq.ops.resized_conv import ResizedMap, resized_conv2d

from .hooks import has_hooks
from .norm import NormFactory, batch_norm
from .offset_conv import OffsetConv2d, fold_input_affine
from .precision import is_reduced


def conv_with_input_scale(conv: nn.Conv2d, x: torch.Tensor, input_scale: torch.Tensor | None) -> torch.Tensor:
    """conv(x * input_scale), computed with scaled weights; a product in float32 is rounded to the weights' precision.

    Args:
        conv: any convolution; its zero padding stays zero.
        x: (N, C, H, W).
        input_scale: (C,), or None for ones.

    Returns:
        (N, C_out, H', W').
    """
    if input_scale is None:
        return conv(x)
    # Multiplied in float32, as the scale is.
    weight = (conv.weight * per_weight(conv, input_scale)).to(conv.weight.dtype)
    scaled = conv._conv_forward(x, weight, conv.bias)
    return scaled + conv.offset((x.shape[-2], x.shape[-1]), x) if isinstance(conv, OffsetConv2d) else scaled


def per_weight(conv: nn.Conv2d, per_input: torch.Tensor) -> torch.Tensor:
    """per_input: (C_in,) -> the same numbers, shaped to multiply conv.weight with."""
    if conv.groups == 1:
        return per_input.view(1, -1, 1, 1)
    grouped = per_input.view(conv.groups, -1)  # the weight of output channel o sees the inputs of o's group
    return grouped.repeat_interleave(conv.out_channels // conv.groups, 0)[..., None, None]


def _taps_of(weight: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """weight: (C_out, C, k, k), shift: (C,) -> (C_out, 1, k, k), what reads a map of ones where `shift` is added."""
    with torch.autocast(weight.device.type, enabled=False):  # in the precision of the shift
        taps = torch.matmul(shift, weight.flatten(2).to(shift.dtype))
    return taps.view(weight.shape[0], 1, *weight.shape[2:])


class ConvNormAct(nn.Module):
    """conv (k x k, same padding) -> norm -> activation; the convolution has a bias only where no norm follows.

    Initialised as mmsegmentation does: Kaiming normal over fan-out, biases zero, norm one and zero.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm: NormFactory | None = batch_norm,
        activation: bool = True,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=norm is None,
        )
        self.norm = nn.Identity() if norm is None else norm(out_channels)
        self.activation = nn.ReLU(inplace=True) if activation else nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: torch.Tensor, input_scale: torch.Tensor | None = None) -> torch.Tensor:
        """x: (N, C_in, H, W); input_scale: (C_in,) -> (N, C_out, H, W)."""
        return self.activation(self.norm(conv_with_input_scale(self.conv, x, input_scale)))

    def takes_resized(self, widths: Sequence[int]) -> bool:
        """Whether `forward_resized` does what forward does, and pays, with small maps of these channels."""
        conv, kernel = self.conv, self.conv.kernel_size[0]
        same_size = conv.stride == (1, 1) and conv.padding == (conv.dilation[0] * (kernel // 2),) * 2
        square = kernel % 2 == 1 and conv.kernel_size == (kernel, kernel) and conv.dilation == (conv.dilation[0],) * 2
        known = type(conv) in (nn.Conv2d, OffsetConv2d) and conv.groups == 1 and conv.padding_mode == "zeros"
        if not (known and square and same_size) or has_hooks(self) or has_hooks(conv):
            return False
        return kernel > 1 or conv.out_channels * len(widths) < sum(widths)  # by 1x1, results are resized, not inputs

    def forward_resized(
        self,
        maps: Sequence[ResizedMap],
        size: tuple[int, int],
        scales: Sequence[torch.Tensor | None] = (),
        shifts: Sequence[torch.Tensor | None] = (),
    ) -> torch.Tensor:
        """forward of the concatenation of the maps, resized to `size`, each at its own resolution.

        maps: n maps (N, C_i, h_i, w_i), of which x * scale + shift is read; scales, shifts: (C_i,), or None for 1 and 0
        -> (N, C_out, *size).
        """
        conv = self.conv
        weights = list(conv.weight.split([m.x.shape[1] for m in maps], 1))
        constants = [
            _taps_of(weight, shift) for weight, shift in zip(weights, shifts, strict=False) if shift is not None
        ]
        if isinstance(conv, OffsetConv2d):
            constants.append(conv.offset_weight)
        maps, scales, bias = list(maps), list(scales), conv.bias
        if constants:
            constant = torch.stack(constants).sum(0).to(conv.weight.dtype)
            if conv.kernel_size == (1, 1):
                bias = constant.flatten() if bias is None else bias + constant.flatten()
            else:  # a map of one pixel more, to be resized as the others are: its zero padding is theirs
                maps.append(ResizedMap(maps[0].x.new_ones(maps[0].x.shape[0], 1, 1, 1), "nearest"))
                weights.append(constant)
                scales += [None] if scales else []
        x = resized_conv2d(maps, weights, bias, size=size, dilation=conv.dilation[0], scales=scales)
        return self.activation(self.norm(x))

    @torch.no_grad()
    def fold_norm(self) -> None:
        """Put a batch norm with running statistics into the convolution, in place, where both are in eval mode.

        Equal to rounding. Other norms stay, and so do one that a hook looks at and weights in half precision.
        """
        norm, conv = self.norm, self.conv
        if not isinstance(norm, _BatchNorm) or norm.training or norm.running_mean is None or norm.running_var is None:
            return
        if type(conv) is not nn.Conv2d or is_reduced(conv.weight.dtype) or has_hooks(norm) or has_hooks(conv):
            return
        # In float64, and rounded once.
        weight, bias = fuse_conv_bn_weights(
            conv.weight.double(),
            None if conv.bias is None else conv.bias.double(),
            norm.running_mean.double(),
            norm.running_var.double(),
            norm.eps,
            None if norm.weight is None else norm.weight.double(),
            None if norm.bias is None else norm.bias.double(),
        )
        conv.weight.copy_(weight)
        conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=conv.weight.requires_grad)
        self.norm = nn.Identity()

    @property
    def consumer(self) -> nn.Conv2d:
        """The convolution that reads the block's input."""
        return self.conv

    def fold_input_affine(self, scale: torch.Tensor, shift: torch.Tensor) -> None:
        """Make the block compute what it did on `x * scale + shift`, each (C_in,), in place and exactly."""
        self.conv = fold_input_affine(self.conv, scale, shift)
