"""Detectors between our names and those of Detectron2's FPN and of FaPN's authors, both ways.

    theirs, level 2 as an example                ours
    backbone.fpn_lateral2, fpn_output2           backbone.pyramid.merges.res2.branches.lateral.lateral, outputs.res2
    backbone.fpn_lateral5, the coarsest          backbone.pyramid.top_lateral
    backbone.fan_align2, fan_align5, ...         as in fapn.py, below backbone.pyramid
    backbone.top_block.p6, p7                    backbone.extra.first, extra.second

Backbone and heads have the same names. An equalized detector is delivered so:

    torch.save({"model": stock_state_dict(fold_into_plain(detector))}, "stock.pth")

and that file is Detectron2's own: no ScaleEq is needed to load it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scaleeq.decoders import FPN
from scaleeq.detection import PyramidBackbone
from scaleeq.fusion import Aligned, Resize, Sum
from scaleeq.fusion.laterals import Select
from scaleeq.layers import ConvNormAct

from .fapn import convert_fapn_weights

LATERAL = r"merges\.res(\d)\.branches\.lateral\.lateral\."
ALIGNMENT = r"merges\.res(\d)\.branches\.top_down\.transfer\."
# Our name below "pyramid." -> theirs; {top} is the number of the coarsest level.
OF_FPN = (
    (LATERAL + r"conv\.(\w+)", r"fpn_lateral\1.\2"),
    (LATERAL + r"norm\.(\w+)", r"fpn_lateral\1.norm.\2"),
    (r"top_lateral\.conv\.(\w+)", r"fpn_lateral{top}.\1"),
    (r"top_lateral\.norm\.(\w+)", r"fpn_lateral{top}.norm.\1"),
)
OF_FAN = (
    (LATERAL + r"importance\.(\w+)", r"fan_align\1.lateral_conv.conv_atten.\2"),
    (LATERAL + r"conv\.(\w+)", r"fan_align\1.lateral_conv.conv.\2"),
    (ALIGNMENT + r"mix\.0\.(\w+)", r"fan_align\1.offset.\2"),
    (ALIGNMENT + r"mix\.1\.(\w+)", r"fan_align\1.offset.norm.\2"),
    (ALIGNMENT + r"predictor\.(\w+)", r"fan_align\1.dcpack_L2.conv_offset_mask.\2"),
    (ALIGNMENT + r"(weight|bias)", r"fan_align\1.dcpack_L2.\2"),
    (r"top_lateral\.conv\.(\w+)", r"fan_align{top}.\1"),
    (r"top_lateral\.norm\.(\w+)", r"fan_align{top}.norm.\1"),
)
OUTPUTS = (
    (r"outputs\.res(\d)\.conv\.(\w+)", r"fpn_output\1.\2"),
    (r"outputs\.res(\d)\.norm\.(\w+)", r"fpn_output\1.norm.\2"),
)
EXTRA = {"extra.first.": "top_block.p6.", "extra.second.": "top_block.p7."}


def stock_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a detector, or of a pyramid backbone, under Detectron2's names, or those of FaPN's authors.

    ValueError: it has no pyramid backbone; or a pyramid that is neither of the two, by what differs.
    """
    backbones = {name: module for name, module in model.named_modules() if isinstance(module, PyramidBackbone)}
    if not backbones:
        raise ValueError(f"{type(model).__name__} has no pyramid backbone; its names are what they are")
    state = dict(model.state_dict())
    for path, backbone in backbones.items():
        prefix = f"{path}." if path else ""
        rules = [*layout_of(backbone.pyramid), *OUTPUTS]
        top = backbone.in_features[-1].removeprefix("res")
        own = {name: value for name, value in state.items() if name.startswith(prefix)}
        for name in own:
            state[prefix + _stock_name(name.removeprefix(prefix), rules, top)] = state.pop(name)
    return state


def _stock_name(name: str, rules: list[tuple[str, str]], top: str) -> str:
    for ours, theirs in EXTRA.items():
        name = name.replace(ours, theirs) if name.startswith(ours) else name
    if not name.startswith("pyramid."):
        return name
    for pattern, theirs in rules:
        if re.fullmatch(f"pyramid\\.{pattern}", name):
            return re.sub(f"pyramid\\.{pattern}", theirs.replace("{top}", top), name)
    raise ValueError(f"{name} has no place in Detectron2's FPN or in FaPN's; a level has one output convolution there")


def layout_of(pyramid: Any) -> tuple[tuple[str, str], ...]:
    """Which of the two pyramids it is. ValueError: neither, with what differs."""
    if not isinstance(pyramid, FPN):
        raise ValueError(f"a {type(pyramid).__name__} has no counterpart in Detectron2; FPN and FaPN have")
    if not all(level.startswith("res") for level in pyramid.levels):
        raise ValueError(f"the levels are {', '.join(pyramid.levels)}; theirs are numbered, res2 to res5")
    fusions: list[Any] = list(pyramid.merges.values())
    if any(type(fusion.combine) is not Sum or fusion.equalizers for fusion in fusions):
        raise ValueError(
            "its sums have coefficients or offsets: take fold_into_plain(model) first, and for FaPN equalizers without "
            "a mean, MODEL.SCALE_EQUALIZER.STATISTIC 'rms'"
        )
    laterals = [fusion.branches["lateral"].lateral for fusion in fusions]
    transfers = [fusion.branches["top_down"].transfer for fusion in fusions]
    plain = all(isinstance(fusion.mix, nn.Identity) for fusion in fusions)
    selects = all(isinstance(lateral, Select) and lateral.residual for lateral in laterals)
    if plain and selects and all(isinstance(each, Aligned) and each.mix is not None for each in transfers):
        return OF_FAN
    nearest = all(isinstance(each, Resize) and each.mode == "nearest" for each in transfers)
    if plain and nearest and all(isinstance(each, ConvNormAct) and _has_no_activation(each) for each in laterals):
        return OF_FPN
    raise ValueError(
        "it is neither Detectron2's FPN (LATERAL conv, TRANSFER nearest) nor FaPN (LATERAL select, TRANSFER aligned)"
    )


def _has_no_activation(block: ConvNormAct) -> bool:
    return isinstance(block.activation, nn.Identity)


def convert_detector(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint of Detectron2's detectors with an FPN, or of FaPN's, under our names of a detector.

    Bottom-up and heads keep their names. ValueError: no pyramid in it, or a name of it that has no place here.
    """
    theirs = [name for name in state_dict if re.match(r"backbone\.(fpn_|fan_)", name)]
    if not theirs:
        first = list(state_dict)[:3]
        raise ValueError(f"no backbone.fpn_lateral and no backbone.fan_align in it; its names start with {first}")
    rest = {name: value for name, value in state_dict.items() if name not in set(theirs)}
    converted = {}
    for name, value in rest.items():
        for ours, stock in EXTRA.items():
            name = name.replace(f"backbone.{stock}", f"backbone.{ours}")
        converted[name] = value
    if any(name.startswith("backbone.fan_") for name in theirs):
        pyramid = convert_fapn_weights({name: state_dict[name] for name in theirs})
    else:
        pyramid = _fpn_weights({name.removeprefix("backbone."): state_dict[name] for name in theirs})
    return converted | {f"backbone.pyramid.{name}": value for name, value in pyramid.items()}


def _fpn_weights(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Detectron2's FPN under our names; the coarsest level is the one of the largest number."""
    found = {name: re.fullmatch(r"fpn_(lateral|output)(\d)\.(norm\.)?(\w+)", name) for name in state}
    if strangers := [name for name, match in found.items() if not match]:
        raise ValueError(f"backbone.{strangers[0]} is no name of Detectron2's FPN")
    matches = {name: match for name, match in found.items() if match}
    top = max(match[2] for match in matches.values())
    converted = {}
    for name, (kind, level, norm, rest) in ((name, match.groups()) for name, match in matches.items()):
        place = "top_lateral" if level == top else f"merges.res{level}.branches.lateral.lateral"
        place = place if kind == "lateral" else f"outputs.res{level}"
        converted[f"{place}.{'norm' if norm else 'conv'}.{rest}"] = state[name]
    return converted
