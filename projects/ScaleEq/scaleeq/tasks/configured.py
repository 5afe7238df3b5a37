"""Decoders as a config describes them: a table of what makes each, what it reads, and what means nothing for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from scaleeq import decoders
from scaleeq.config import add_scaleeq_config
from scaleeq.config.detection import PYRAMID_BACKBONES
from scaleeq.decoders import AtrousOptions, Decoder, FusionOptions, PoolingOptions, PyramidOptions
from scaleeq.decoders.semantic_fpn import PYRAMID_CHANNELS
from scaleeq.engine import NaiveSyncBatchNorm, comm, get_cfg
from scaleeq.layers import Level, NormFactory, norm_factory

if TYPE_CHECKING:
    from yacs.config import CfgNode

Levels = Mapping[str, Level]


def uper(cfg: CfgNode, levels: Levels) -> Decoder:
    head = cfg.MODEL.SEM_SEG_HEAD
    return decoders.UPer(
        levels,
        head.CONVS_DIM,
        context=PoolingOptions(pool_scales=head.POOL_SCALES, gate=context_gate(cfg)),
        pyramid=pyramid_options(cfg, name="fpn", channels=head.CONVS_DIM),
        fusion=fusion_options(cfg),
        norm=resolve_norm(head.NORM),
    )


def psp(cfg: CfgNode, levels: Levels) -> Decoder:
    head, transfer = cfg.MODEL.SEM_SEG_HEAD, fusion_options(cfg).transfer
    context = PoolingOptions(pool_scales=head.POOL_SCALES, transfer=transfer, gate=context_gate(cfg))
    return decoders.PSP(levels, head.CONVS_DIM, context=context, norm=resolve_norm(head.NORM))


def aspp(cfg: CfgNode, levels: Levels) -> Decoder:
    head = cfg.MODEL.SEM_SEG_HEAD
    if head.ASPP_CHANNELS not in (0, head.CONVS_DIM):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.ASPP_CHANNELS is {head.ASPP_CHANNELS}, but ASPPHead classifies the pooled map "
            f"itself, whose width is CONVS_DIM, {head.CONVS_DIM}; leave ASPP_CHANNELS 0"
        )
    combine = fusion_options(cfg).combine
    context = AtrousOptions(dilations=head.ASPP_DILATIONS, combine=combine, gate=context_gate(cfg))
    return decoders.ASPP(levels, head.CONVS_DIM, context=context, norm=resolve_norm(head.NORM))


def sep_aspp(cfg: CfgNode, levels: Levels) -> Decoder:
    head = cfg.MODEL.SEM_SEG_HEAD
    if len(head.PROJECT_CHANNELS) != 1:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS is {head.PROJECT_CHANNELS}; SepASPPHead has one low level, "
            "so give one number"
        )
    return decoders.SepASPP(
        levels,
        head.CONVS_DIM,
        context=AtrousOptions(dilations=head.ASPP_DILATIONS, gate=context_gate(cfg)),
        widths={"context": head.ASPP_CHANNELS or head.CONVS_DIM, "low_level": head.PROJECT_CHANNELS[0]},
        fusion=fusion_options(cfg),
        norm=resolve_norm(head.NORM),
    )


def fcn(cfg: CfgNode, levels: Levels) -> Decoder:
    if len(levels) == 1:
        refuse_keys(cfg, "FCNHead", {"FUSION": "levels to fuse, with one level in IN_FEATURES"})
    head = cfg.MODEL.SEM_SEG_HEAD
    return decoders.FCN(levels, head.CONVS_DIM, fusion=fusion_options(cfg), norm=resolve_norm(head.NORM))


def semantic_fpn(cfg: CfgNode, levels: Levels) -> Decoder:
    head, keys = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.PYRAMID
    return decoders.SemanticFPN(
        levels,
        head.CONVS_DIM,
        pyramid=pyramid_options(cfg, name="fpn", channels=PYRAMID_CHANNELS),
        combine=cfg.MODEL.FUSION.COMBINE or "sum",
        norm=resolve_norm(head.NORM),
        pyramid_norm=resolve_norm(keys.NORM or (head.NORM if keys.NAME == "bifpn" else "")),
    )


def eseg(cfg: CfgNode, levels: Levels) -> Decoder:
    head = cfg.MODEL.SEM_SEG_HEAD
    return decoders.ESeg(
        levels,
        head.CONVS_DIM,
        pyramid=pyramid_options(cfg, name="bifpn", channels=head.CONVS_DIM),
        fusion=fusion_options(cfg, combine="softmax"),
        norm=resolve_norm(head.NORM),
    )


def pyramid_options(cfg: CfgNode, *, name: str, channels: int) -> PyramidOptions:
    """backbone_pyramid_options, or none where the backbone has the pyramid that MODEL.PYRAMID describes."""
    if cfg.MODEL.BACKBONE.NAME in PYRAMID_BACKBONES:
        return PyramidOptions(name="none", channels=channels)
    return backbone_pyramid_options(cfg, name=name, channels=channels)


def backbone_pyramid_options(cfg: CfgNode, *, name: str, channels: int) -> PyramidOptions:
    """MODEL.PYRAMID and MODEL.GATE; `name` and `channels` are the owner's, for where the keys are empty."""
    keys = cfg.MODEL.PYRAMID
    return PyramidOptions(
        name=keys.NAME or name,
        channels=keys.CHANNELS or channels,
        lateral=keys.LATERAL,
        transfer=keys.TRANSFER,
        down_transfer=keys.DOWN_TRANSFER,
        combine=keys.COMBINE,
        output_convs=tuple(keys.OUTPUT_CONVS),
        out_features=tuple(keys.OUT_FEATURES),
        recursion=keys.RECURSION,
        repeats=keys.REPEATS,
        gate=cfg.MODEL.GATE,
    )


def fusion_options(cfg: CfgNode, *, combine: str = "concat") -> FusionOptions:
    """MODEL.FUSION and MODEL.GATE; `combine` is the decoder's own, for where the key is empty."""
    return FusionOptions(
        transfer=cfg.MODEL.FUSION.TRANSFER or "bilinear",
        combine=cfg.MODEL.FUSION.COMBINE or combine,
        gate=cfg.MODEL.GATE,
        gate_channels=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    )


def context_gate(cfg: CfgNode) -> str:
    """The kind of the gates in the context; "": there are none."""
    return cfg.MODEL.GATE if cfg.MODEL.SEM_SEG_HEAD.CONTEXT_GATE else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registered:
    """What stands behind a name.

    make: config, levels -> decoder.
    num_levels: how many IN_FEATURES it reads; 0: any number.
    reads: those of KEYS_OF_SOME that it reads; it refuses the others.
    lacks: what else means nothing for it -> why not: a part of MODEL ("PYRAMID") or one key of such a part.
    """

    make: Callable[[CfgNode, Levels], Decoder]
    num_levels: int = 0
    reads: tuple[str, ...] = ()
    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)


NO_PYRAMID = {"PYRAMID": "pyramid"}
ONE_NORM = {"PYRAMID.NORM": "norms but those of SEM_SEG_HEAD.NORM"}
HEADS = {
    "ASPPHead": Registered(
        make=aspp,
        num_levels=1,
        reads=("ASPP_DILATIONS", "ASPP_CHANNELS", "CONTEXT_GATE"),
        lacks=NO_PYRAMID | {"FUSION.TRANSFER": "branches of different sizes to transfer"},
    ),
    "ESegHead": Registered(make=eseg, lacks=ONE_NORM),
    "FCNHead": Registered(make=fcn, lacks=NO_PYRAMID),
    "PSPHead": Registered(
        make=psp,
        num_levels=1,
        reads=("POOL_SCALES", "CONTEXT_GATE"),
        lacks=NO_PYRAMID | {"FUSION.COMBINE": "branches of one width: it concatenates a level with its pooled maps"},
    ),
    "SemanticFPNHead": Registered(
        make=semantic_fpn,
        lacks={
            "FUSION.TRANSFER": "choice of it: each branch is upsampled step by step, with its convolutions in between"
        },
    ),
    "SepASPPHead": Registered(
        make=sep_aspp,
        num_levels=2,
        reads=("ASPP_DILATIONS", "ASPP_CHANNELS", "PROJECT_CHANNELS", "CONTEXT_GATE"),
        lacks=NO_PYRAMID,
    ),
    "UPerHead": Registered(make=uper, reads=("POOL_SCALES", "CONTEXT_GATE"), lacks=ONE_NORM),
}


# Keys of MODEL.SEM_SEG_HEAD that some heads read -> the part that they describe.
KEYS_OF_SOME = {
    "POOL_SCALES": "pyramid pooling",
    "ASPP_DILATIONS": "atrous pooling",
    "ASPP_CHANNELS": "atrous pooling",
    "PROJECT_CHANNELS": "low level to project",
    "CONTEXT_GATE": "context to gate",
}


def resolve_norm(name: str) -> NormFactory | None:
    """The norm of a NORM key. "SyncBN" is the engine's, and plain BN where one process trains alone."""
    if name == "SyncBN":
        if comm.get_world_size() == 1:
            return norm_factory("BN")
        return NaiveSyncBatchNorm
    return norm_factory(name)


def refuse_keys(cfg: CfgNode, head: str, lacks: Mapping[str, str]) -> None:
    """ValueError for a key of MODEL that is set, although it means nothing for this head.

    lacks: a part of MODEL ("PYRAMID") or one of its keys ("FUSION.COMBINE") -> why the head has no such thing.
    """
    defaults = get_cfg()
    add_scaleeq_config(defaults)
    for part, reason in lacks.items():
        node, _, only = part.partition(".")
        if node == "PYRAMID" and cfg.MODEL.BACKBONE.NAME in PYRAMID_BACKBONES:  # which reads them
            continue
        for key in [only] if only else cfg.MODEL[node]:
            if (node, key) == ("FUSION", "EVALUATE"):  # of the loss and the pyramid, too
                continue
            value, default = cfg.MODEL[node][key], defaults.MODEL[node][key]
            if value != default:
                raise ValueError(f"MODEL.{node}.{key} is {value!r}, but {head} has no {reason}; leave it {default!r}")
