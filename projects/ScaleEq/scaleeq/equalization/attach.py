"""Attaching equalizers to a built model: every Fusion in scope gets those that a spec describes.

Keys of the state dict, values and random state are those of the plain model, with the equalizers' own keys in each
Fusion after its others.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import nn

from scaleeq.choices import one_of
from scaleeq.fusion import Fusion
from scaleeq.fusion.ports import HoldsScales

from .controls import make_equalizer
from .foreign_conv import KeptConv, cannot_center
from .implementations import Attached, implementation
from .spec import EqualizerSpec

if TYPE_CHECKING:
    from yacs.config import CfgNode

SCOPES = ("head", "all")
OUTSIDE = ("backbone", "aux_heads")  # parts of a model whose Fusions are equalized in no scope
PYRAMID = "pyramid"  # the part whose Fusions are equalized in scope "all" alone


def equalize_fusions(model: nn.Module, spec: EqualizerSpec, scope: str = "head") -> None:
    """Attach uncalibrated equalizers to the Fusions of a built model, in place.

    Args:
        model: with Fusions, or one itself. Its parts are known by their names: backbone, pyramid, aux_heads.
        spec: how the branches are equalized.
        scope: "head": all Fusions but those of a pyramid, as the paper; "all": those too.

    Raises:
        ValueError: no Fusion in scope; equalizers that are there already; a spec that means nothing, or has no weights
            to go to, in one of the Fusions. Then the model is as it was.
    """
    one_of(scope, SCOPES, key="scope")
    if not isinstance(spec, EqualizerSpec):
        raise ValueError(f"spec is {spec!r}; give an EqualizerSpec(...)")
    # Make and refuse all of them first: the model stays as it was on an error.
    fusions = dict(fusions_in_scope(model, scope))
    if not fusions:
        raise ValueError(f"{type(model).__name__} has no Fusion in scope {scope!r}, so there is nothing to equalize")
    made = {}
    for name, fusion in fusions.items():
        if fusion.equalizers:
            raise ValueError(f"{name or 'it'} has scale equalizers already; begin with fold_equalizers(model)")
        modules = {branch: make_equalizer(spec, each.channels, fusion) for branch, each in fusion.branches.items()}
        made[fusion] = implementation(spec, fusion.combine, modules)
        if reason := refusal(fusion, made[fusion]):
            raise ValueError(reason)
    # Attach, where the weights are.
    for fusion, equalizers in made.items():
        weight = next(chain(fusion.parameters(), model.parameters()), None)
        if weight is not None:  # statistics of a model in half precision are kept in float32
            equalizers.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        fusion.equalizers = equalizers.train(fusion.training)


def equalize_as_configured(model: nn.Module, cfg: CfgNode) -> None:
    """Attach what MODEL.SCALE_EQUALIZER says; nothing where it is not enabled."""
    keys = cfg.MODEL.SCALE_EQUALIZER
    one_of(keys.SCOPE, SCOPES, key="MODEL.SCALE_EQUALIZER.SCOPE")
    if keys.ENABLED:
        equalize_fusions(model, configured_spec(cfg), keys.SCOPE)


def configured_spec(cfg: CfgNode) -> EqualizerSpec:
    """What MODEL.SCALE_EQUALIZER says of each equalizer."""
    keys = cfg.MODEL.SCALE_EQUALIZER
    return EqualizerSpec(
        implementation=keys.IMPLEMENTATION,
        granularity=keys.GRANULARITY,
        statistic=keys.STATISTIC,
        statistics_of=keys.STATISTICS_OF,
        control=keys.CONTROL,
    )


def fusions_in_scope(model: nn.Module, scope: str) -> Iterator[tuple[str, Fusion]]:
    """Path -> Fusion, in the order of the model's modules."""
    outside = OUTSIDE if scope == "all" else (*OUTSIDE, PYRAMID)
    for path, module in model.named_modules():
        if isinstance(module, Fusion) and not set(outside) & set(path.split(".")):
            yield path, module


def refusal(fusion: Fusion, equalizers: Attached) -> str:
    """Why a fusion cannot have these equalizers; empty where it can."""
    spec, combine, mix = equalizers.spec, type(fusion.combine).__name__, type(fusion.mix).__name__
    # A convolution of a foreign model may have no place for means.
    if isinstance(fusion.mix, KeptConv) and spec.centers and (reason := cannot_center(fusion.mix.conv)):
        return reason
    if fusion.combine.concatenates and not isinstance(fusion.mix, HoldsScales):
        return (
            f"a scale equalizer before {mix} has no weights to go to (MODEL.SCALE_EQUALIZER.ENABLED, COMBINE "
            "'concat'): mix needs forward(x, input_scale) and fold_input_affine(scale, shift), as ConvNormAct has; or "
            "use another COMBINE"
        )
    if reason := equalizers.refusal(fusion):
        return f"MODEL.SCALE_EQUALIZER.IMPLEMENTATION {spec.implementation!r}: {reason}"
    if (key := spec.needs_weights_per_branch) and fusion.consumer is None:
        return (
            f"MODEL.SCALE_EQUALIZER.{key}: a {combine} before {mix} has no weights per branch; it needs a "
            "concatenation and a convolution"
        )
    # Channels before a transfer need not be those after it.
    if spec.of_source and spec.per_channel:
        for name, branch in fusion.branches.items():
            if not branch.transfer.keeps_constants:
                return (
                    "MODEL.SCALE_EQUALIZER.STATISTICS_OF 'source' with GRANULARITY 'channel': "
                    f"{type(branch.transfer).__name__}, the transfer of branch {name!r}, makes other channels of its "
                    "source's; use 'upsampled' or 'branch'"
                )
    return ""
