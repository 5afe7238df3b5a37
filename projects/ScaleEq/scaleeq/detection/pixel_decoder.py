"""The pixel decoder of a mask transformer, MaskFormer (arXiv 2107.06278) or Mask2Former (2112.01527), of any pyramid.

Their heads find it by MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME ScaleEqPixelDecoder and call `forward_features`. By default
the pyramid is MaskFormer's own, an FPN whose recursion goes on after the 3x3 convolutions; with MODEL.PYRAMID.NAME fapn
it is that of FaPN's MaskFormer models (each norm its own, see decoders/fapn.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scaleeq.decoders import PyramidOptions, build_pyramid
from scaleeq.decoders.base import widths_of
from scaleeq.engine import SEM_SEG_HEADS_REGISTRY, ShapeSpec
from scaleeq.equalization import equalize_as_configured
from scaleeq.fusion import evaluate_fusions
from scaleeq.layers import Level, NormFactory, caffe2_xavier_
from scaleeq.tasks.configured import pyramid_options, resolve_norm
from scaleeq.tasks.detectron2 import resolve_levels

NUM_SCALES = 3  # maps that Mask2Former's transformer reads


class ScaleEqPixelDecoder(nn.Module):
    """levels -> map of mask features, and for Mask2Former the three coarsest levels of the pyramid."""

    def __init__(
        self,
        levels: Mapping[str, Level],
        *,
        pyramid: PyramidOptions,
        mask_channels: int,
        norm: NormFactory | None = None,
        multi_scale: bool = False,
    ):
        """
        Args:
            levels: finest first.
            mask_channels: of the mask features.
            norm: of the pyramid's convolutions.
            multi_scale: whether `forward_features` returns three values, as Mask2Former expects, or two.

        ValueError: three maps are asked for, and there are fewer levels.
        """
        super().__init__()
        if multi_scale and len(levels) < NUM_SCALES:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES has {', '.join(levels)}; Mask2Former reads the {NUM_SCALES} coarsest "
                "of at least as many levels"
            )
        self.in_features = list(levels)
        self.multi_scale = multi_scale
        self.mask_dim = mask_channels  # a name that their heads know
        self.pyramid = build_pyramid(widths_of(levels), pyramid, norm=norm)
        self.mask_features = nn.Conv2d(self.pyramid.out_channels[self.in_features[0]], mask_channels, 3, padding=1)
        caffe2_xavier_(self.mask_features)

    def forward_features(self, features: Mapping[str, torch.Tensor]) -> tuple[Any, ...]:
        """features: level -> (N, C_level, H_level, W_level) -> mask features (N, mask_channels, H, W) at the finest
        level's size; None, for what a transformer encoder would make; and with multi_scale a list of the three coarsest
        maps (N, C, h, w), coarsest first.
        """
        levels = list(self.pyramid({name: features[name] for name in self.in_features}).values())
        masks = self.mask_features(levels[0])
        return (masks, None, levels[: -NUM_SCALES - 1 : -1]) if self.multi_scale else (masks, None)

    def forward(self, features: Mapping[str, torch.Tensor], targets: object = None) -> tuple[Any, ...]:
        """forward_features."""
        return self.forward_features(features)


def build_pixel_decoder(cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> ScaleEqPixelDecoder:
    """The pixel decoder that MODEL.PYRAMID and MODEL.SEM_SEG_HEAD describe, equalized as the config says.

    Mask2Former's is what MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE "multi_scale_pixel_decoder" asks for.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    options = pyramid_options(cfg, name="fpn", channels=head.CONVS_DIM)
    if options.name in ("fpn", "fapn") and not options.recursion and not options.output_convs:
        options = dataclasses.replace(options, recursion="smoothed")
    transformer = cfg.MODEL.get("MASK_FORMER", {}).get("TRANSFORMER_IN_FEATURE", "")
    decoder = ScaleEqPixelDecoder(
        resolve_levels(head.IN_FEATURES, input_shape),
        pyramid=options,
        mask_channels=head.get("MASK_DIM", head.CONVS_DIM),
        norm=resolve_norm(cfg.MODEL.PYRAMID.NORM or head.NORM),
        multi_scale=transformer == "multi_scale_pixel_decoder",
    )
    equalize_as_configured(decoder, cfg)
    evaluate_fusions(decoder, cfg.MODEL.FUSION.EVALUATE)
    return decoder


build_pixel_decoder.__name__ = ScaleEqPixelDecoder.__name__  # a registry knows a function by it
SEM_SEG_HEADS_REGISTRY.register(build_pixel_decoder)
