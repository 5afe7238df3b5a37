"""Training with a source in other units: a level of the backbone leaves it multiplied by a constant.

    python -m evidence.dosed --config-file camvid/uper_lite0 MODEL.BACKBONE.NAME timm_res5_x100

is `scaleeq train`, which knows these names of backbones besides. All else of MODEL.TIMM holds. It knows two data sets
besides, on which rates are chosen: camvid_sem_seg_fitted and camvid_sem_seg_held_out, parts of CamVid's training set.
"""

from __future__ import annotations

from scaleeq import console

console.start()

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from scaleeq.backbones.registered import TimmBackbone, build_timm_backbone
from scaleeq.commands import start
from scaleeq.data import register_dataset
from scaleeq.data.sets.camvid import CLASSES, COLORS, load_camvid
from scaleeq.data.sets.catalog import Record
from scaleeq.engine import BACKBONE_REGISTRY, ShapeSpec

from .probes.study import HELD_OUT

if TYPE_CHECKING:
    from yacs.config import CfgNode

LEVELS = ("res2", "res5")
DOSES = (0.01, 0.1, 10.0, 100.0)


def dosed(backbone: nn.Module, level: str, dose: float) -> nn.Module:
    """The backbone itself, whose `level` is multiplied by `dose` when it leaves."""

    def multiply(module: nn.Module, inputs: Any, levels: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: feature * dose if name == level else feature for name, feature in levels.items()}

    backbone.register_forward_hook(multiply)
    return backbone


def name_of(level: str, dose: float) -> str:
    """As MODEL.BACKBONE.NAME has it."""
    return f"timm_{level}_x{dose:g}"


def _register(level: str, dose: float) -> None:
    def build(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
        backbone = build_timm_backbone(cfg, input_shape)
        dosed(backbone, level, dose)
        return backbone

    build.__name__ = build.__qualname__ = name_of(level, dose)
    BACKBONE_REGISTRY.register(build)


def fitted() -> list[Record]:
    """CamVid's training images without those that choose rates."""
    return load_camvid("train")[: HELD_OUT.start]


def held_out() -> list[Record]:
    """The training images by which rates are chosen, the same as for the probes."""
    return load_camvid("train")[HELD_OUT.start : HELD_OUT.stop]


for _load in (fitted, held_out):
    register_dataset(f"camvid_sem_seg_{_load.__name__}", _load, classes=CLASSES, colors=COLORS)
for _level in LEVELS:
    for _dose in DOSES:
        _register(_level, _dose)

if __name__ == "__main__":
    start("train", prog="python -m evidence.dosed")
