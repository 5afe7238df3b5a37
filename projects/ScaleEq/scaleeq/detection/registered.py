"""Pyramid backbones under their names in the engine's registry, MODEL.BACKBONE.NAME: built of (cfg, input_shape).

    build_scaleeq_pyramid_backbone              one extra level by max pooling
    build_retinanet_scaleeq_pyramid_backbone    from stride 8 on, and two extra levels by convolutions
    build_resnet_fan_backbone                   the two names of FaPN's authors (github.com/EMI-Group/FaPN): their YAML
    build_retinanet_resnet_fan_backbone         files run as they are

The first two mirror Detectron2's build_resnet_fpn_backbone and build_retinanet_resnet_fpn_backbone.

MODEL.PYRAMID describes the pyramid and MODEL.PYRAMID.BOTTOM_UP names the backbone below it. MODEL.FPN's IN_FEATURES,
OUT_CHANNELS and NORM keep the meaning that they have for Detectron2's own FPN.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from scaleeq.backbones.registered import EngineBackbone
from scaleeq.choices import one_of
from scaleeq.config.check import OUR_BACKBONES
from scaleeq.config.detection import PYRAMID_BACKBONES, WITHOUT_HEAD
from scaleeq.engine import BACKBONE_REGISTRY, ShapeSpec, get_cfg
from scaleeq.equalization import equalize_as_configured
from scaleeq.fusion import evaluate_fusions
from scaleeq.tasks.configured import HEADS, backbone_pyramid_options, resolve_norm

from . import backbone
from .backbone import levels_of

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)


class PyramidBackbone(backbone.PyramidBackbone, EngineBackbone):
    """backbone.PyramidBackbone for the engine."""


@dataclasses.dataclass(frozen=True)
class Implied:
    """What a name means where keys are empty.

    pyramid, bottom_up, extra: of MODEL.PYRAMID.NAME, BOTTOM_UP and EXTRA_LEVELS.
    finest: stride of the finest level, in pixels, where MODEL.FPN.IN_FEATURES is empty.
    """

    pyramid: str
    bottom_up: str
    extra: str
    finest: int


NAMES = {
    "build_scaleeq_pyramid_backbone": Implied("fpn", "build_timm_backbone", "max_pool", 4),
    "build_retinanet_scaleeq_pyramid_backbone": Implied("fpn", "build_timm_backbone", "convs_from_res5", 8),
    "build_resnet_fan_backbone": Implied("fapn", "build_resnet_backbone", "max_pool", 4),
    "build_retinanet_resnet_fan_backbone": Implied("fapn", "build_resnet_backbone", "convs_from_res5", 8),
}


def build_pyramid_backbone(cfg: CfgNode, input_shape: ShapeSpec, name: str = "") -> PyramidBackbone:
    """The pyramid backbone that a config describes, equalized as it says.

    name: one of NAMES, whose meaning empty keys have; default the one of MODEL.BACKBONE.NAME.

    ValueError: values that cannot be meant.
    """
    implied = NAMES[name or cfg.MODEL.BACKBONE.NAME]
    bottom_up = build_bottom_up(cfg, input_shape, implied)
    # The levels that are named, or those from the finest that the name implies.
    in_features = cfg.MODEL.FPN.IN_FEATURES or [
        level for level, shape in levels_of(bottom_up).items() if shape.stride >= implied.finest
    ]
    built = PyramidBackbone.of(
        bottom_up,
        backbone_pyramid_options(cfg, name=implied.pyramid, channels=configured_width(cfg)),
        in_features=in_features,
        norm=resolve_norm(configured_norm(cfg)),
        extra=cfg.MODEL.PYRAMID.EXTRA_LEVELS or implied.extra,
    )
    refuse_scope(cfg)
    if cfg.MODEL.SCALE_EQUALIZER.SCOPE == "all":
        equalize_as_configured(built, cfg)
    evaluate_fusions(built, cfg.MODEL.FUSION.EVALUATE)
    return built


def build_bottom_up(cfg: CfgNode, input_shape: ShapeSpec, implied: Implied) -> Any:
    """The backbone of MODEL.PYRAMID.BOTTOM_UP. ValueError: an unknown one, or pixels that it was not trained on."""
    registered = [name for name, _ in BACKBONE_REGISTRY if name not in PYRAMID_BACKBONES]
    name = one_of(cfg.MODEL.PYRAMID.BOTTOM_UP or implied.bottom_up, registered, key="MODEL.PYRAMID.BOTTOM_UP")
    if name in OUR_BACKBONES:
        check_pixels(cfg)
    return BACKBONE_REGISTRY.get(name)(cfg, input_shape)


def check_pixels(cfg: CfgNode) -> None:
    """ValueError, or a warning where no weights are loaded, for pixels that no weights of timm have been trained on.

    Detectron2's defaults are those of its own weights: BGR, and a std of 1.
    """
    has_std_of_one = all(std == 1 for std in cfg.MODEL.PIXEL_STD)
    if cfg.INPUT.FORMAT == "RGB" and not has_std_of_one:
        return
    given = f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r} and MODEL.PIXEL_STD {list(cfg.MODEL.PIXEL_STD)}"
    message = (
        f"{given}, but timm's weights see RGB with the std of ImageNet: set INPUT.FORMAT RGB, "
        "MODEL.PIXEL_MEAN [123.675, 116.28, 103.53] and MODEL.PIXEL_STD [58.395, 57.12, 57.375]"
    )
    if cfg.MODEL.TIMM.PRETRAINED or cfg.MODEL.TIMM.PRETRAINED_FILE:
        raise ValueError(message)
    logger.warning(message)


def configured_width(cfg: CfgNode) -> int:
    """MODEL.FPN.OUT_CHANNELS, for where MODEL.PYRAMID.CHANNELS is 0. ValueError: both are set, and differ."""
    return agreed(cfg, "CHANNELS", "OUT_CHANNELS")


def configured_norm(cfg: CfgNode) -> str:
    """MODEL.PYRAMID.NORM, or MODEL.FPN.NORM; ValueError: both are set, and differ, or FPN.FUSE_TYPE is no sum."""
    if cfg.MODEL.FPN.FUSE_TYPE != "sum":
        raise ValueError(
            f"MODEL.FPN.FUSE_TYPE is {cfg.MODEL.FPN.FUSE_TYPE!r}, but the pyramids here add: set 'sum' (weights that "
            "are learnt: MODEL.PYRAMID.COMBINE)"
        )
    return agreed(cfg, "NORM", "NORM")


def agreed(cfg: CfgNode, own: str, detectron2s: str) -> Any:
    """The value of two keys for one thing, MODEL.PYRAMID.<own> and MODEL.FPN.<detectron2s>, of which one may be set."""
    ours, theirs = cfg.MODEL.PYRAMID[own], cfg.MODEL.FPN[detectron2s]
    if ours and theirs not in (ours, get_cfg().MODEL.FPN[detectron2s]):
        raise ValueError(
            f"MODEL.PYRAMID.{own} is {ours!r} and MODEL.FPN.{detectron2s} {theirs!r}, for the same pyramid; set one"
        )
    return ours or theirs


def refuse_scope(cfg: CfgNode) -> None:
    """ValueError: equalizers in the head alone, of a model without a head of ours."""
    keys, architecture, head = cfg.MODEL.SCALE_EQUALIZER, cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NAME
    if not keys.ENABLED or keys.SCOPE != "head":
        return
    if architecture in WITHOUT_HEAD or head not in HEADS:
        without = "no head with Fusions" if architecture in WITHOUT_HEAD else f"{head}, which has no Fusions,"
        raise ValueError(
            f"MODEL.SCALE_EQUALIZER.SCOPE is 'head', but {architecture} has {without} to equalize; set "
            "MODEL.SCALE_EQUALIZER.SCOPE all, which equalizes the pyramid"
        )


def _builder(name: str) -> Any:
    """What the registry has under a name."""

    def build(cfg: CfgNode, input_shape: ShapeSpec) -> PyramidBackbone:
        return build_pyramid_backbone(cfg, input_shape, name)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{name} of a config, with its equalizers."
    return build


for _name in NAMES:
    if _name not in BACKBONE_REGISTRY:  # FaPN's authors register theirs where their own files are installed
        BACKBONE_REGISTRY.register(_builder(_name))
