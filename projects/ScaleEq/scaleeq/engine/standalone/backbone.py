"""The base class of backbones: image -> {"res2": ..., "res5": ...}.

Source: Detectron2's modeling/backbone/backbone.py. Deviations: none.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

from torch import Tensor, nn

from .shape_spec import ShapeSpec


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network whose outputs are feature maps with names.

    A subclass defines forward and either overrides output_shape or sets `_out_features` (names),
    `_out_feature_channels` and `_out_feature_strides` (name -> int).
    """

    _out_features: list[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """x: (N, C, H, W), images -> {name: (N, C_i, H_i, W_i)}."""

    @property
    def size_divisibility(self) -> int:
        """What height and width must be divisible by, in pixels; 0: anything goes."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further wishes for ImageList.from_tensors: "size_divisibility" and "square_size", in pixels; empty: none."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """{name: ShapeSpec(channels, stride)} of every output."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
