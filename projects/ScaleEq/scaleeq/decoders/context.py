"""Contexts: a top level fused with what is seen around each of its pixels, as one Fusion.

Sources: pyramid pooling (PSPNet, arXiv 1612.01105), atrous spatial pyramid pooling (DeepLabV3, arXiv 1706.05587, and
its separable form, DeepLabV3+, arXiv 1802.02611), both as mmsegmentation builds them. Gates in them are our reading of
GSTO (arXiv 2005.13363), which reports them and does not show them: in pyramid pooling before each pooling and before
its upsampling, in the atrous one on the input of each branch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from scaleeq.choices import one_of
from scaleeq.fusion import COMBINES, Branch, Concat, Fusion, Gated, Resize, make_combine
from scaleeq.layers import ConvNormAct, Gate, Level, NormFactory, SeparableBlock, batch_norm
from scaleeq.layers.gate import GATES

DILATIONS = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # output stride -> 96, 192 and 288 pixels of the image


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoolingOptions:
    """What pyramid pooling is made of; ValueError for values that cannot be meant.

    pool_scales: cells a side of the pooled maps. transfer: of the pooled maps. gate: kind of the gates; "": none.
    """

    pool_scales: Sequence[int] = (1, 2, 3, 6)
    transfer: str = "bilinear"
    gate: str = ""

    def __post_init__(self) -> None:
        if self.gate:
            one_of(self.gate, GATES, key="MODEL.GATE")
        if self.transfer not in ("bilinear", "nearest"):
            raise ValueError(
                f"MODEL.FUSION.TRANSFER is {self.transfer!r}; PSPHead upsamples maps of a few cells by 'bilinear' or "
                "'nearest', and MODEL.SEM_SEG_HEAD.CONTEXT_GATE gates them"
            )
        if self.gate and self.transfer == "nearest":
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.CONTEXT_GATE upsamples by 'bilinear', not MODEL.FUSION.TRANSFER 'nearest'"
            )

    def fusion(self, in_channels: int, channels: int, *, norm: NormFactory | None = batch_norm) -> Fusion:
        """pyramid_pooling with these options."""
        return pyramid_pooling(
            in_channels, channels, pool_scales=self.pool_scales, transfer=self.transfer, norm=norm, gate=self.gate
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtrousOptions:
    """What atrous pooling is made of; ValueError for unknown values.

    dilations: of the 3x3 convolutions; empty: DILATIONS of the level's stride. gate: kind of the gates; "": none.
    """

    dilations: Sequence[int] = ()
    combine: str = "concat"
    gate: str = ""

    def __post_init__(self) -> None:
        if self.gate:
            one_of(self.gate, GATES, key="MODEL.GATE")
        one_of(self.combine, COMBINES, key="MODEL.FUSION.COMBINE")

    def fusion(
        self, level: Level, channels: int, *, separable: bool = False, norm: NormFactory | None = batch_norm
    ) -> Fusion:
        """atrous_pooling of a level with these options; ValueError for a stride that implies no dilations."""
        return atrous_pooling(
            level.channels,
            channels,
            dilations=dilations_at(level.stride, self.dilations),
            separable=separable,
            combine=self.combine,
            norm=norm,
            gate=self.gate,
        )


def dilations_at(stride: int, dilations: Sequence[int]) -> Sequence[int]:
    """`dilations`, or those that output stride `stride` implies; ValueError where it implies none."""
    if dilations:
        return dilations
    if stride not in DILATIONS:
        raise ValueError(
            f"no dilations are known for a level of stride {stride}, only for {', '.join(map(str, DILATIONS))}; "
            "set MODEL.SEM_SEG_HEAD.ASPP_DILATIONS"
        )
    return DILATIONS[stride]


def pyramid_pooling(
    in_channels: int,
    channels: int,
    *,
    pool_scales: Sequence[int] = (1, 2, 3, 6),
    transfer: str = "bilinear",
    norm: NormFactory | None = batch_norm,
    gate: str = "",
) -> Fusion:
    """Fusion x: (N, in_channels, H, W) -> (N, channels, H, W).

    Branches: "input", x itself, and "pool<k>", x averaged to k x k cells, 1x1 convolution to `channels`, upsampled.
        Mixed by 3x3.

    Args:
        pool_scales: cells per side; different ones.
        transfer: of the pooled maps, "bilinear" or "nearest".
        gate: kind of the gates; "": none.
    """
    _check_different("POOL_SCALES", pool_scales)
    branches = {"input": Branch(in_channels)}
    for scale in pool_scales:
        pool = _pooled(in_channels, channels, scale, norm)
        upsample = Gated(Gate(channels, kind=gate)) if gate else Resize(transfer)
        branches[f"pool{scale}"] = Branch(channels, lateral=_gated(pool, in_channels, gate), transfer=upsample)
    # The level itself goes in unreduced, beside the narrow pooled maps.
    width = in_channels + channels * len(pool_scales)
    mix = ConvNormAct(width, channels, kernel_size=3, norm=norm)
    return Fusion(branches, combine=Concat(), mix=mix, reference="input")


def atrous_pooling(
    in_channels: int,
    channels: int,
    *,
    dilations: Sequence[int] = (6, 12, 18),
    separable: bool = False,
    combine: str = "concat",
    norm: NormFactory | None = batch_norm,
    gate: str = "",
) -> Fusion:
    """Fusion x: (N, in_channels, H, W) -> (N, channels, H, W).

    Branches, all `channels` wide: "pool", the mean of x over the image; "conv", a 1x1 convolution; "dilated<d>", a 3x3
        convolution of dilation d. Mixed by 3x3.

    Args:
        dilations: of the 3x3 convolutions, pixels of x; different ones.
        separable: those are depthwise, then 1x1.
        combine: one of fusion.COMBINES.
        gate: kind of the gates; "": none.
    """
    _check_different("ASPP_DILATIONS", dilations)
    # The convolutions keep the level's size; the mean alone is a map of one pixel.
    laterals: dict[str, nn.Module] = {
        "pool": _pooled(in_channels, channels, 1, norm),
        "conv": ConvNormAct(in_channels, channels, norm=norm),
    }
    for dilation in dilations:
        laterals[f"dilated{dilation}"] = (
            SeparableBlock(in_channels, channels, dilation=dilation, norm=norm)
            if separable
            else ConvNormAct(in_channels, channels, kernel_size=3, dilation=dilation, norm=norm)
        )
    branches = {
        name: Branch(
            channels, lateral=_gated(lateral, in_channels, gate), transfer=Resize() if name == "pool" else None
        )
        for name, lateral in laterals.items()
    }
    combined = make_combine(combine, len(branches))
    # A sum needs no more width than one of its branches.
    width = channels * len(branches) if combined.concatenates else channels
    mix = ConvNormAct(width, channels, kernel_size=3, norm=norm)
    return Fusion(branches, combine=combined, mix=mix, reference="conv")


def _check_different(key: str, numbers: Sequence[int]) -> None:
    if isinstance(numbers, str) or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{key} is {numbers!r}; give a list of different positive whole numbers")
    # A branch is named after its number, so two equal ones would be one branch.
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 1:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.{key} is {list(numbers)}; give different positive whole numbers, at least one"
        )


def _gated(lateral: nn.Module, channels: int, gate: str) -> nn.Module:
    return nn.Sequential(Gate(channels, kind=gate), lateral) if gate else lateral


def _pooled(in_channels: int, channels: int, cells: int, norm: NormFactory | None) -> nn.Sequential:
    """Mean over cells x cells, then a 1x1 convolution block. ValueError for a norm that leaves nothing of one cell."""
    block = ConvNormAct(in_channels, channels, norm=norm)
    # Of one number, less its mean, nothing is left.
    if cells == 1 and isinstance(block.norm, nn.GroupNorm) and block.norm.num_groups == channels:
        raise ValueError(
            f"NORM 'GN' has a group for each of {channels} channels, so a map pooled to one cell is normalised to 0; "
            "use more channels or NORM 'BN'"
        )
    return nn.Sequential(nn.AdaptiveAvgPool2d(cells), block)
