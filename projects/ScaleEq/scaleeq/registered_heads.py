"""The heads under their names in the engine's registry: built of (cfg, input_shape), and equalized as the config says.

This is the one place where a config attaches equalizers, so a head has them in every meta-architecture that builds its
head by name: ScaleEqSegmentor, and Detectron2's SemanticSegmentor and PanopticFPN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scaleeq.decoders.aspp import ASPPHead
from scaleeq.decoders.base import SegmentationHead
from scaleeq.decoders.eseg import ESegHead
from scaleeq.decoders.fcn import FCNHead
from scaleeq.decoders.psp import PSPHead
from scaleeq.decoders.semantic_fpn import SemanticFPNHead
from scaleeq.decoders.sep_aspp import SepASPPHead
from scaleeq.decoders.uper import UPerHead

from .engine import SEM_SEG_HEADS_REGISTRY, ShapeSpec
from .equalization import equalize_as_configured

HEADS = (ASPPHead, ESegHead, FCNHead, PSPHead, SemanticFPNHead, SepASPPHead, UPerHead)


def builder(kind: type[SegmentationHead]) -> Callable[[Any, Mapping[str, ShapeSpec]], SegmentationHead]:
    """What the registry has under the name of a class."""

    def build(cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> SegmentationHead:
        head = kind(**kind.from_config(cfg, input_shape))
        equalize_as_configured(head, cfg)
        return head

    build.__name__ = build.__qualname__ = kind.__name__
    build.__doc__ = f"{kind.__name__} of a config, with its equalizers."
    return build


for _kind in HEADS:
    SEM_SEG_HEADS_REGISTRY.register(builder(_kind))
