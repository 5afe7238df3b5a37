"""FaPN (arXiv 2108.07058): a feature pyramid with selecting laterals and aligned transfers.

Follows the authors' released code: no norm and no bias in the selection, the top level is a plain 1x1 convolution in
torch's own initialisation and has no output convolution. In the authors' MaskFormer models the alignment stands alone,
in `smoothed_fpn`; there the released code shares one norm per level between offset and output convolution, here each
has its own. The real-time models were never released; `fapn_realtime` follows a public file of one of the authors,
which may be a later revision than the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scaleeq.fusion import Aligned, Transfer
from scaleeq.fusion.aligned import AlignedRealtime
from scaleeq.layers import ConvNormAct, NormFactory, batch_norm

from .fpn import FPN
from .plain import fpn


def fapn(
    in_channels: Mapping[str, int],
    channels: int,
    *,
    lateral: str = "select",
    transfer: Callable[[], Transfer] | None = None,
    combine: str = "sum",
    norm: NormFactory | None = None,
    ready_top: bool = False,
    output_convs: Mapping[str, int] | None = None,
) -> FPN:
    """FaPN: level -> channels, finest first -> a pyramid of `channels`.

    Args:
        lateral, transfer: "select" and Aligned; others are the paper's ablations.
        norm: of the offset, top and output convolutions; the selection never has one.
        combine, ready_top: as in fpn.
        output_convs: as in fpn; default one 3x3 convolution on each level but the top.
    """
    levels = list(in_channels)
    pyramid = fpn(
        in_channels,
        channels,
        lateral=lateral,
        transfer=transfer or (lambda: Aligned(channels, norm=norm)),
        combine=combine,
        norm=norm,
        activation=False,
        ready_top=ready_top,
        output_convs=dict.fromkeys(levels[:-1], 1) if output_convs is None else output_convs,
    )
    # The authors left the top level to torch's initialisation.
    if isinstance(pyramid.top_lateral, ConvNormAct):
        pyramid.top_lateral.conv.reset_parameters()
    return pyramid


def fapn_realtime(
    in_channels: Mapping[str, int],
    channels: int,
    *,
    combine: str = "sum",
    norm: NormFactory | None = batch_norm,
    ready_top: bool = False,
) -> FPN:
    """The real-time variant: ungated laterals with norm and ReLU, narrow aligned transfers, no output convolutions."""
    return fpn(
        in_channels,
        channels,
        transfer=lambda: AlignedRealtime(channels, norm=norm),
        combine=combine,
        norm=norm,
        ready_top=ready_top,
        output_convs={},
    )
