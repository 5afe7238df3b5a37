"""EfficientNets (arXiv 1905.11946) of any width and depth, as timm builds its own B0 to B8.

timm offers the multipliers of the published models alone; the function behind them takes any, and is what is used here.
ESeg-Lite (arXiv 2203.12683) has widths 0.4 and 0.6, for which no pretrained weights exist.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

# The models that multipliers apply to, whose own are 1. "tf_": TensorFlow's padding and batch norm epsilon.
BASES = ("efficientnet_b0", "tf_efficientnet_b0")


def scaled_efficientnet(
    name: str, *, multipliers: tuple[float, float], pretrained: bool = False, **options: Any
) -> nn.Module:
    """EfficientNet-B0 with other multipliers; `options` and `pretrained` are those of timm.create_model.

    Args:
        name: one of BASES; ValueError for another.
        multipliers: of the channels and of the number of blocks, both positive; else ValueError.
    """
    base = re.sub(r"\..*", "", name)
    if base not in BASES:
        raise ValueError(
            f"MODEL.TIMM.WIDTH_MULTIPLIER and MODEL.TIMM.DEPTH_MULTIPLIER are of {' and '.join(BASES)}, not of NAME "
            f"{name!r}"
        )
    from timm.models.efficientnet import _gen_efficientnet

    width, depth = multipliers
    if width <= 0 or depth <= 0:
        raise ValueError(f"MODEL.TIMM: WIDTH_MULTIPLIER {width} and DEPTH_MULTIPLIER {depth} must be positive")
    if base.startswith("tf_"):
        options = {"bn_eps": 1e-3, "pad_type": "same"} | options
    return _gen_efficientnet(base, channel_multiplier=width, depth_multiplier=depth, pretrained=pretrained, **options)
