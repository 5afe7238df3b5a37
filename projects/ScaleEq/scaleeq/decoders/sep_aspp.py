"""SepASPP (DeepLabV3+, arXiv 1802.02611), as mmsegmentation's DepthwiseSeparableASPPHead is built.

Separable atrous pooling on the top level, upsampled and concatenated with a narrow low level, then two separable
convolutions. Parameters and logits equal mmsegmentation's. Keys as in Detectron2's DeepLab project: ASPP_DILATIONS
without the 1x1 convolution; ASPP_CHANNELS, of the context (0: CONVS_DIM); PROJECT_CHANNELS, of the low level.

A scale equalizer before the final Fusion cannot act through its scale: see SeparableBlock.scale_invariant.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from scaleeq.choices import one_of
from scaleeq.layers import ConvNormAct, Level, NormFactory, SeparableBlock, batch_norm

from .base import Decoder, Features, take_levels
from .context import AtrousOptions
from .final import FusionOptions


class SepASPP(Decoder):
    """Top level -> context (separable atrous pooling); [context, low level] -> fusion -> refine."""

    def __init__(
        self,
        levels: Mapping[str, Level],
        channels: int,
        *,
        context: AtrousOptions | None = None,
        widths: Mapping[str, int] | None = None,
        fusion: FusionOptions | None = None,
        norm: NormFactory | None = batch_norm,
    ):
        """
        Args:
            levels: the low level, whose stride the map has, and the top level.
            channels: width of the fusion.
            context: default the dilations that the top level's stride implies; always separable.
            widths: of the final Fusion's branches; default {"context": channels, "low_level": 48}.
            fusion: the final one; default a concatenation.
        """
        super().__init__(levels, channels)
        for name in widths or ():
            one_of(name, ("context", "low_level"), key="widths")
        widths = {"context": channels, "low_level": 48, **(widths or {})}
        low_level, top = take_levels(levels, 2, "SepASPP")
        self.context = (context or AtrousOptions()).fusion(top, widths["context"], separable=True, norm=norm)
        # The low level is made narrow, so that it does not outweigh the context that it sharpens.
        self.fusion = (fusion or FusionOptions()).fusion(
            widths,
            mix=lambda width: SeparableBlock(width, channels, norm=norm),
            reference="low_level",
            laterals={"low_level": ConvNormAct(low_level.channels, widths["low_level"], norm=norm)},
        )
        self.refine = SeparableBlock(channels, channels, norm=norm)

    def forward(self, features: Features) -> torch.Tensor:
        """features: level -> (N, C_level, H_level, W_level) -> (N, channels, H, W) of the low level's size."""
        low_level, top = self.in_features
        return self.refine(self.fusion({"context": self.context(features[top]), "low_level": features[low_level]}))
