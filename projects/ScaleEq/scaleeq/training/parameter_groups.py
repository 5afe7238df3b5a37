"""Which parameter learns how fast, and which is pulled to zero.

Sources: Detectron2 0.6 (WEIGHT_DECAY_NORM, WEIGHT_DECAY_BIAS, BIAS_LR_FACTOR), MaskFormer (BACKBONE_MULTIPLIER,
WEIGHT_DECAY_EMBED); layer-wise decay as in BEiT and in mmsegmentation's "stage_wise" for ConvNeXt.

Deviation: every vector that is no bias (ConvNeXt's layer scale) decays as a norm does. It is a factor per channel, as
the weights of norms are; mmsegmentation, timm and BEiT leave all vectors out alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from scaleeq.backbones.depth import layer_ids
from scaleeq.engine import CfgNode

Group = dict[str, Any]  # of an optimizer: params, lr, weight_decay

NORM_TYPES = (
    nn.modules.batchnorm._NormBase,  # batch, sync-batch and instance normalization in every dimension
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)
# What tells a token its place: learned tables (Swin, ViT), whose decay would pull positions together, and the
# Depthwise convolutions that Twins has instead of them.
POSITION_TABLES = ("absolute_pos_embed", "relative_position_bias_table", "pos_embed")
POSITION_MODULES = ("pos_block",)
UNDECAYED = ("log_variance",)  # by which a task is weighted: zero is nothing that it should be pulled to


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float | None = None,
    weight_decay_bias: float | None = None,
    weight_decay_position: float | None = None,
    bias_lr_factor: float = 1.0,
    backbone_multiplier: float = 1.0,
    layer_scales: Mapping[str, float] | None = None,
) -> list[Group]:
    """Trainable parameters grouped by (learning rate, weight decay), groups in order of first appearance.

    A weight decay of None means "as weight_decay". As in Detectron2, the bias rules come last and also hold for the
    biases of normalization layers. A parameter that two modules share is listed once, under its first owner.

    layer_scales: parameter name -> one more factor on its learning rate; others have 1.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            # Where it is: backbone, and depth.
            lr, decay = base_lr, weight_decay
            if f"{module_name}.".startswith("backbone."):
                lr *= backbone_multiplier
            lr *= (layer_scales or {}).get(f"{module_name}.{name}", 1.0)
            # What it is: norm, position, bias; the last one that fits counts.
            is_vector = parameter.ndim <= 1 and name != "bias"
            if (isinstance(module, NORM_TYPES) or is_vector) and weight_decay_norm is not None:
                decay = weight_decay_norm
            if weight_decay_position is not None and _is_position(module_name, name):
                decay = weight_decay_position
            if name in UNDECAYED:
                decay = 0.0
            if name == "bias":
                lr *= bias_lr_factor
                decay = decay if weight_decay_bias is None else weight_decay_bias
            groups.setdefault((lr, decay), []).append(parameter)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in groups.items()]


def _is_position(module_name: str, name: str) -> bool:
    return name in POSITION_TABLES or any(part in POSITION_MODULES for part in module_name.split("."))


def layer_scales(backbone: nn.Module, *, rate: float, by: str, num_layers: int = 0) -> dict[str, float]:
    """Factors on the learning rates of a backbone's parameters: rate ** (num_layers + 1 - depth).

    The head, and a level norm, have depth num_layers + 1, hence 1, and are not listed; the stem has depth 0.

    rate: in (0, 1]; 1: no factors, for any backbone.
    num_layers: as mmsegmentation's paramwise_cfg has it; 0: as many layers as there are after the stem.
    Returns "backbone." and the parameter's name -> factor.
    ValueError: a rate or number outside these, or a backbone whose layers are not known.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"SOLVER.LAYER_DECAY is {rate}: a factor in (0, 1] is needed, 1 for none")
    if rate == 1:
        return {}
    ids, count = layer_ids(backbone, by)
    if num_layers and num_layers < count:
        raise ValueError(
            f"SOLVER.LAYER_DECAY_LAYERS is {num_layers}, but by {by} the backbone has {count}: set it to 0 or at least "
            f"to {count}"
        )
    total = (num_layers or count) + 1
    return {f"backbone.{name}": rate ** (total - depth) for name, depth in ids.items()}


def groups_from_config(cfg: CfgNode, model: nn.Module) -> list[Group]:
    """The groups that SOLVER describes.

    ValueError: the model has nothing to train, or LAYER_DECAY does not fit the backbone.
    """
    solver = cfg.SOLVER
    scales: dict[str, float] = {}
    if solver.LAYER_DECAY != 1:
        backbone = getattr(model, "backbone", model)
        scales = layer_scales(
            backbone, rate=solver.LAYER_DECAY, by=solver.LAYER_DECAY_BY, num_layers=solver.LAYER_DECAY_LAYERS
        )
    groups = parameter_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        weight_decay_position=solver.WEIGHT_DECAY_EMBED,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
        layer_scales=scales,
    )
    if not groups:
        raise ValueError("the model has no trainable parameter: every one of them is frozen")
    return groups
