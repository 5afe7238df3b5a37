"""The backbones under their names in the engine's registry, MODEL.BACKBONE.NAME: built of (cfg, input_shape).

The only file of the room that knows the engine: its Backbone and ShapeSpec, its norm of several processes, and how it
reads weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scaleeq.choices import one_of
from scaleeq.engine import BACKBONE_REGISTRY, Backbone, NaiveSyncBatchNorm, ShapeSpec, comm
from scaleeq.engine.checkpoint_container import read_content
from scaleeq.engine.checkpoint_file import refuse_faults, state_dict_of
from scaleeq.layers import replace_batch_norms

from . import hrnet, timm, vit
from .base import PlainBackbone
from .freezing import freeze_batch_norms

if TYPE_CHECKING:
    from yacs.config import CfgNode


class EngineBackbone(PlainBackbone, Backbone):  # type: ignore[misc]
    """A plain backbone as the engine's: the same object, whose levels have the engine's kind of shape, too."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Level name -> channels and stride."""
        return {name: ShapeSpec(channels=level.channels, stride=level.stride) for name, level in self.levels().items()}


class TimmBackbone(timm.TimmBackbone, EngineBackbone):
    """timm.TimmBackbone for the engine."""


class HRNetBackbone(hrnet.HRNetBackbone, EngineBackbone):
    """hrnet.HRNetBackbone for the engine."""


class ViTBackbone(vit.ViTBackbone, EngineBackbone):
    """vit.ViTBackbone for the engine."""


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The backbone that MODEL.TIMM and MODEL.BACKBONE.FREEZE_AT describe.

    SEM_SEG_HEAD.NORM "SyncBN" holds for its batch norms too, as in mmsegmentation's recipes (not for those that timm
    fuses with their activation, as in EfficientNet).
    """
    keys = cfg.MODEL.TIMM
    backbone = TimmBackbone(
        name=keys.NAME,
        in_channels=input_shape.channels or 3,
        pretrained=pretrained(cfg),
        drop_path_rate=keys.DROP_PATH_RATE,
        level_norm=keys.LEVEL_NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        multipliers=(keys.WIDTH_MULTIPLIER, keys.DEPTH_MULTIPLIER),
        bn_momentum=keys.BN_MOMENTUM,
        output_stride=keys.OUTPUT_STRIDE,
    )
    return finished(backbone, cfg)


@BACKBONE_REGISTRY.register()
def build_gsto_hrnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> HRNetBackbone:
    """The backbone that MODEL.TIMM, MODEL.HRNET, MODEL.GATE and MODEL.BACKBONE.FREEZE_AT describe.

    SEM_SEG_HEAD.NORM "SyncBN" holds for its batch norms too, as the published models were trained.
    """
    model = cfg.MODEL
    _refuse_unread(cfg, {"DROP_PATH_RATE": 0.0, "LEVEL_NORM": False, "OUTPUT_STRIDE": 32}, "an HRNet")
    backbone = HRNetBackbone(
        name=model.TIMM.NAME,
        in_channels=input_shape.channels or 3,
        pretrained=pretrained(cfg),
        gates=model.HRNET.GATES,
        gate=model.GATE,
        num_classes=model.SEM_SEG_HEAD.NUM_CLASSES,
        aux_loss_weights=model.HRNET.AUX_LOSS_WEIGHTS,
        transfer=model.HRNET.TRANSFER,
        freeze_at=model.BACKBONE.FREEZE_AT,
    )
    return finished(backbone, cfg)


@BACKBONE_REGISTRY.register()
def build_vit_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ViTBackbone:
    """The plain ViT that MODEL.TIMM, MODEL.VIT and MODEL.BACKBONE.FREEZE_AT describe.

    Its levels are "layer1", "layer2", ... or, with MODEL.VIT.PYRAMID, "res2" to "res5".
    """
    model, keys = cfg.MODEL, cfg.MODEL.VIT
    nothing = {"LEVEL_NORM": False, "OUTPUT_STRIDE": 32, "BN_MOMENTUM": 0.0, "NORM": ""}
    _refuse_unread(cfg, nothing | {"WIDTH_MULTIPLIER": 1.0, "DEPTH_MULTIPLIER": 1.0}, "a plain ViT")
    backbone = ViTBackbone(
        name=model.TIMM.NAME,
        in_channels=input_shape.channels or 3,
        pretrained=pretrained(cfg),
        drop_path_rate=model.TIMM.DROP_PATH_RATE,
        freeze_at=model.BACKBONE.FREEZE_AT,
        patch_size=keys.PATCH_SIZE,
        final_norm=keys.FINAL_NORM,
        pyramid=keys.PYRAMID,
        pyramid_channels=keys.PYRAMID_CHANNELS,
    )
    return finished(backbone, cfg)


def _refuse_unread(cfg: CfgNode, nothing: dict[str, Any], what: str) -> None:
    """ValueError for a key of MODEL.TIMM that is set, although a backbone has no such part.

    nothing: key -> its value where it is not set.
    """
    for key, default in nothing.items():
        if (value := cfg.MODEL.TIMM[key]) != default:
            raise ValueError(f"MODEL.TIMM.{key} is {value}, but {what} has no such part; leave it out")


def finished(backbone: Any, cfg: CfgNode) -> Any:
    """The backbone once its weights are looked at, with frozen batch norms, or those of several processes, where they
    are asked for.

    ValueError: a number that no weight may be, in MODEL.TIMM.PRETRAINED_FILE.
    """
    if cfg.MODEL.TIMM.PRETRAINED_FILE:
        parameters = [parameter for parameter, _ in backbone.body.named_parameters()]
        refuse_faults({"model": backbone.body.state_dict()}, parameters, source_of(cfg.MODEL.TIMM.PRETRAINED_FILE))
    if one_of(cfg.MODEL.TIMM.NORM, ("FrozenBN", ""), key="MODEL.TIMM.NORM"):
        freeze_batch_norms(backbone.body)
    if cfg.MODEL.SEM_SEG_HEAD.NORM == "SyncBN" and comm.get_world_size() > 1:
        replace_batch_norms(backbone, NaiveSyncBatchNorm)
    return backbone


def pretrained(cfg: CfgNode) -> bool | timm.Weights:
    """MODEL.TIMM.PRETRAINED, or the weights of PRETRAINED_FILE, which goes before it: a local file with the weights of
    the timm model (.safetensors, or a state dict of torch.save).

    FileNotFoundError; ValueError: not a file of weights.
    """
    file = cfg.MODEL.TIMM.PRETRAINED_FILE
    if not file:
        return cfg.MODEL.TIMM.PRETRAINED
    if not Path(file).is_file():
        raise FileNotFoundError(f"MODEL.TIMM.PRETRAINED_FILE: there is no file {file!r}")
    return timm.Weights(read_weights(Path(file)), source_of(file))


def source_of(file: str) -> str:
    return f"MODEL.TIMM.PRETRAINED_FILE {file!r}"


def read_weights(file: Path) -> dict[str, Tensor]:
    """The state dict in a file of timm's or of a training with it, averaged weights first, as timm chooses.

    ValueError: damaged, foreign, or with something else than floats as weights.
    """
    if file.suffix == ".safetensors":
        from timm.models import load_state_dict

        try:
            content: Any = load_state_dict(str(file))
        except Exception as error:  # the reader's own class of error is not public
            raise ValueError(
                f"MODEL.TIMM.PRETRAINED_FILE {str(file)!r} is no whole safetensors file: {error}"
            ) from error
    else:
        content = read_content(file, shown_as=file)
    keys = ("state_dict_ema", "model_ema", "state_dict", "model") if isinstance(content, dict) else ()
    key = next((key for key in keys if content.get(key) is not None), "")
    weights = state_dict_of(content[key] if key else content, file, key or "state dict")
    for name, tensor in weights.items():
        is_float = tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_meta
        if name.rpartition(".")[2] in ("weight", "bias", "running_mean", "running_var") and not is_float:
            raise ValueError(f"{file}: {name} is {tensor.dtype} ({tensor.layout}, {tensor.device}), not a plain float")
    return weights
