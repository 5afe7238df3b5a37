"""A config's model on the meta device: shapes without numbers, so that building and counting it takes seconds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from scaleeq.engine import CfgNode, build_model
from scaleeq.names import check_names
from scaleeq.probes.counting import Count, count_on_meta
from scaleeq.segmentor import without_pretrained

CITYSCAPES_SIZE, DEFAULT_SIZE = (1024, 2048), (512, 512)  # pixels


def count_config(cfg: CfgNode, size: Sequence[int]) -> Count:
    """The model of a config on one image of `size` (height, width), pixels, without memory for its weights or maps."""
    return count_on_meta(lambda: build_on_meta(cfg), size)


def build_on_meta(cfg: CfgNode) -> nn.Module:
    """The model of a config on the meta device: shapes without numbers, so no pretrained weights are fetched."""
    cfg = without_pretrained(cfg)
    check_names(cfg)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def image_size(cfg: CfgNode) -> tuple[int, int]:
    """Height and width at which a config's multiply-adds are stated, pixels."""
    return CITYSCAPES_SIZE if cfg.DATASETS.TEST and "cityscapes" in cfg.DATASETS.TEST[0] else DEFAULT_SIZE
