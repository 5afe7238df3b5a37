"""A bottom-up backbone, any pyramid on its levels, and extra levels, as one backbone: images -> p2 to p5 and more.

Source: Detectron2's modeling/backbone/fpn.py, whose names of levels these are: p<k> has stride 2^k. With an FPN and the
same weights its maps are Detectron2's to the bit. Deviation: images of any size are taken; `size_divisibility` is the
pyramid's coarsest stride all the same, because heads of Detectron2 add maps that only then have one size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from scaleeq.backbones import PlainBackbone
from scaleeq.decoders import FPN, PyramidOptions, build_pyramid
from scaleeq.decoders.base import widths_of
from scaleeq.decoders.extra import make_extra
from scaleeq.layers import Level, NormFactory

Kind = TypeVar("Kind", bound="PyramidBackbone")


class PyramidBackbone(PlainBackbone):
    """bottom_up -> pyramid -> extra levels.

    In a checkpoint: bottom_up.*, pyramid.* (its levels by the names of the bottom-up's), extra.*. Its Fusions are a
    pyramid's, which SCOPE "all" equalizes.
    """

    def __init__(
        self,
        *,
        bottom_up: nn.Module,
        pyramid: Any,
        in_features: Sequence[str],
        extra: Any = None,
        extra_of: str = "",
    ):
        """
        Args:
            bottom_up: images -> level -> map; states its levels, as PlainBackbone or Detectron2's Backbone does.
            pyramid: of `build_pyramid`, over the levels `in_features`.
            in_features: finest first, each of twice the stride of the one before.
            extra: of decoders.extra; None: no more levels.
            extra_of: which level it is made of: one of the bottom-up's, or one that leaves the pyramid, as "p5".
        """
        super().__init__()
        shapes = levels_of(bottom_up)
        self.in_features = list(in_features)
        strides = {level: shapes[level].stride for level in self.in_features}
        # Levels are called after their strides: res2 -> p2.
        self.output_names = {level: name_of(stride) for level, stride in strides.items()}
        self._levels = {
            self.output_names[level]: Level(width, strides[level]) for level, width in pyramid.out_channels.items()
        }
        coarsest = strides[self.in_features[-1]]
        self.bottom_up = bottom_up
        self.pyramid = pyramid
        self.extra = extra
        self.extra_of = extra_of
        self._extra_levels = {}
        if extra is not None:
            width = next(iter(self._levels.values())).channels
            for stride in (coarsest * 2 ** (1 + i) for i in range(extra.num_levels)):
                self._extra_levels[name_of(stride)] = Level(width, stride)
        self.padding_constraints, self.size_divisibility = padding_of(bottom_up, coarsest)
        if isinstance(bottom_up, PlainBackbone):
            bottom_up.keep_levels(self.in_features)

    @classmethod
    def of(
        cls: type[Kind],
        bottom_up: nn.Module,
        pyramid: str | PyramidOptions = "fpn",
        *,
        channels: int = 256,
        in_features: Sequence[str] = (),
        norm: NormFactory | None = None,
        extra: str = "max_pool",
    ) -> Kind:
        """The backbone of plain values.

        Args:
            bottom_up: as above; a TimmBackbone, for example.
            pyramid: "fpn", "fapn" or "bifpn", or its options, whose channels then count. OUT_FEATURES there are names
                of what leaves, as "p3".
            channels: width of every level.
            in_features: levels of the bottom-up; default all.
            norm: of the pyramid's convolutions.
            extra: one of decoders.extra.EXTRA_LEVELS; "": none.

        ValueError: levels that are not there, or no chain of doubled strides; a pyramid without levels of one width.
        """
        options = PyramidOptions(name=pyramid, channels=channels) if isinstance(pyramid, str) else pyramid
        refuse_parts(bottom_up, options)
        levels = checked_levels(levels_of(bottom_up), in_features)
        widths = widths_of(levels)
        top = list(levels)[-1]
        built = build_pyramid(widths, dataclasses.replace(options, out_features=()), norm=norm)
        made = make_extra(extra, backbone_width=widths[top], channels=options.channels) if extra else None
        backbone = cls(
            bottom_up=bottom_up,
            pyramid=built,
            in_features=list(levels),
            extra=made,
            extra_of=top if extra == "convs_from_res5" else name_of(levels[top].stride) if extra else "",
        )
        if options.out_features:
            backbone.refuse_outputs(options.out_features)
            backbone.keep_levels({*options.out_features, *backbone.extra_levels})
        return backbone

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """image: (N, 3, H, W), normalized -> level -> (N, C, H / stride, W / stride), finest first."""
        features = self.bottom_up(image)
        maps = self.pyramid({level: features[level] for level in self.in_features})
        outputs = {self.output_names[level]: x for level, x in maps.items()}
        if self.extra is not None:
            source = features[self.extra_of] if self.extra_of in self.in_features else outputs[self.extra_of]
            outputs |= zip(self._extra_levels, self.extra(source), strict=True)
        return outputs

    def levels(self) -> dict[str, Level]:
        """Level name -> channels and stride, finest first."""
        return self._levels | self._extra_levels

    @property
    def extra_levels(self) -> dict[str, Level]:
        """Those of `levels` that are coarser than the pyramid."""
        return dict(self._extra_levels)

    def keep_levels(self, levels: Collection[str]) -> None:
        """Drop extra levels where none of them is named, and output convolutions of an FPN that nobody reads."""
        if not set(levels) & set(self._extra_levels):
            self.extra, self.extra_of, self._extra_levels = None, "", {}
        if isinstance(self.pyramid, FPN):
            own = {name: level for level, name in self.output_names.items()}
            kept = [own[name] for name in self._levels if name in levels or name == self.extra_of]
            self.pyramid.keep_outputs(kept)
            self._levels = {self.output_names[level]: self._levels[self.output_names[level]] for level in kept}

    def refuse_outputs(self, names: Collection[str]) -> None:
        """ValueError: levels that the pyramid has not, or without its finest, which would be computed for nobody."""
        finest = next(iter(self._levels))
        if unknown := [name for name in names if name not in self._levels]:
            raise ValueError(f"MODEL.PYRAMID.OUT_FEATURES has {unknown}; the levels are {', '.join(self._levels)}")
        if finest not in names:
            raise ValueError(
                f"MODEL.PYRAMID.OUT_FEATURES is {list(names)}, without {finest!r}, the finest: leave its level "
                f"{self.in_features[0]!r} out of MODEL.FPN.IN_FEATURES instead, so that it is not computed at all"
            )


def levels_of(bottom_up: Any) -> dict[str, Level]:
    """Level name -> channels and stride, of a PlainBackbone or an engine's Backbone."""
    shapes = bottom_up.levels() if isinstance(bottom_up, PlainBackbone) else bottom_up.output_shape()
    return {name: Level(shape.channels, shape.stride) for name, shape in shapes.items()}


def name_of(stride: int) -> str:
    """The name of a level, "p3" of stride 8."""
    return f"p{stride.bit_length() - 1}"


def checked_levels(levels: Mapping[str, Level], in_features: Sequence[str] = ()) -> dict[str, Level]:
    """The levels that a pyramid is built on, finest first; all, or those of `in_features`.

    ValueError: unknown or repeated ones; strides that are no powers of two, each twice the one before.
    """
    # The levels that are named, or all.
    names = list(in_features) or list(levels)
    if (unknown := [name for name in names if name not in levels]) or len(set(names)) < len(names):
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES is {names}; name each level once{f', not {unknown}' if unknown else ''}; the "
            f"bottom-up has {', '.join(levels)}"
        )
    chosen = dict(sorted(((name, levels[name]) for name in names), key=lambda item: item[1].stride))
    # A detector needs strides that double.
    strides = [level.stride for level in chosen.values()]
    first = strides[0]
    if len(strides) < 2 or first & (first - 1) or strides != [first << i for i in range(len(strides))]:
        raise ValueError(
            f"the levels {', '.join(chosen)} have strides {strides}; a pyramid backbone needs two or more, powers of "
            "two, each twice the one before (MODEL.FPN.IN_FEATURES; MODEL.TIMM.OUTPUT_STRIDE 32)"
        )
    return chosen


def refuse_parts(bottom_up: nn.Module, options: PyramidOptions) -> None:
    """ValueError: no pyramid, or a bottom-up that predicts classes, which no detector would train."""
    if options.name == "none":
        raise ValueError("MODEL.PYRAMID.NAME is 'none', but a pyramid backbone has one; choose fpn, fapn or bifpn")
    if getattr(bottom_up, "aux_loss_weights", None):
        raise ValueError(
            f"{type(bottom_up).__name__} predicts classes for its gates, and detectors train none; set "
            "MODEL.HRNET.GATES 'unsupervised' or 'none'"
        )


def padding_of(bottom_up: Any, coarsest: int) -> tuple[dict[str, int], int]:
    """What a bottom-up asks of images' sizes, besides multiples of the coarsest stride: padding_constraints and
    size_divisibility, as Detectron2's Backbone has them.
    """
    constraints = dict(getattr(bottom_up, "padding_constraints", {}))
    own = constraints.pop("size_divisibility", 0) or getattr(bottom_up, "size_divisibility", 0) or 1
    return constraints, math.lcm(own, coarsest)
