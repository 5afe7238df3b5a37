"""FaPN (arXiv 2108.07058): a feature pyramid with selecting laterals and aligned transfers.

Follows the authors' released code: no norm and no bias in the selection, the top level is a plain 1x1 convolution in
torch's own initialisation and has no output convolution. Its real-time models were never released; `fapn_realtime`
follows a public file of one of the authors, which may be a later revision than the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from ..fusion import EqualizerSpec
from ..fusion.aligned import Aligned, AlignedRealtime
from ..layers import ConvNormAct, NormFactory, batch_norm
from .fpn import FPN, fpn


def fapn(
    in_channels: Mapping[str, int],
    channels: int,
    *,
    lateral: str = "select",
    groups: int = 8,
    norm: NormFactory | None = None,
    equalizer: EqualizerSpec | None = None,
) -> FPN:
    """FaPN: level -> channels, finest first -> a pyramid of `channels`.

    Args:
        lateral: "select"; "conv" and "squeeze_excite" are the paper's ablations.
        groups: of channels with offsets of their own.
        norm: of the offset, top and output convolutions; the selection never has one.
    """
    levels = list(in_channels)
    pyramid = fpn(
        in_channels,
        channels,
        lateral=lateral,
        transfer=lambda: Aligned(channels, groups=groups, norm=norm),
        norm=norm,
        activation=False,
        output_convs=dict.fromkeys(levels[:-1], 1),
        equalizer=equalizer,
    )
    pyramid.top_lateral.conv.reset_parameters()  # type: ignore[union-attr,operator]
    return pyramid


def maskformer_fam(
    in_channels: Mapping[str, int],
    channels: int,
    *,
    groups: int = 8,
    norm: NormFactory | None = None,
    equalizer: EqualizerSpec | None = None,
) -> FPN:
    """The pixel decoder of FaPN's MaskFormer models: aligned transfers without selection.

    The recursion goes on behind the 3x3 convolutions. Deviation: the released code shares one norm per level between
    offset and output convolution; here each has its own.
    """
    levels = list(in_channels)
    return FPN(
        in_channels,
        channels,
        top=ConvNormAct(in_channels[levels[-1]], channels, kernel_size=3, norm=norm),
        lateral=lambda width: ConvNormAct(width, channels, norm=norm, activation=False),
        transfer=lambda: Aligned(channels, groups=groups, norm=norm),
        mix=lambda: ConvNormAct(channels, channels, kernel_size=3, norm=norm),
        outputs={},
        equalizer=equalizer,
    )


def fapn_realtime(
    in_channels: Mapping[str, int],
    channels: int,
    *,
    groups: int = 8,
    norm: NormFactory | None = batch_norm,
    equalizer: EqualizerSpec | None = None,
) -> FPN:
    """The real-time variant: ungated laterals with norm and ReLU, narrow aligned transfers, no output convolutions."""
    levels = list(in_channels)

    def conv(width: int) -> nn.Module:
        return ConvNormAct(width, channels, norm=norm)

    return FPN(
        in_channels,
        channels,
        top=conv(in_channels[levels[-1]]),
        lateral=conv,
        transfer=lambda: AlignedRealtime(channels, groups=groups, norm=norm),
        outputs={},
        equalizer=equalizer,
    )
