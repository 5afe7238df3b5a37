"""The peers' heads, of the packages that can be imported; a package that is missing is None.

mmsegmentation: `pip install mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine prettytable ftfy`. mmcv-lite has no
compiled operators. No head here uses one, but importing mmsegmentation asks for them by name: a module that has any
name stands in, and what it has cannot be called.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import warnings
from types import ModuleType
from typing import Any

from torch import nn

PACKAGES = {
    "mmsegmentation": "mmseg",
    "transformers": "transformers",
    "segmentation_models_pytorch": "segmentation_models_pytorch",
    "detectron2": "detectron2",
}


class NoOperators(ModuleType):
    """Stands in for mmcv's compiled extension: has every name, and none can be called."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def module_of(name: str) -> Any:
    """A module of a peer; None: it is not installed."""
    if name.startswith("mmseg"):
        sys.modules.setdefault("mmcv._ext", NoOperators("mmcv._ext"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


def versions() -> dict[str, str]:
    """The peers that are installed."""
    return {
        package: importlib.metadata.version(package)
        for package, name in PACKAGES.items()
        if module_of(name) is not None
    }


def mmseg_head(name: str, *, in_channels: Any, channels: int, num_classes: int, **options: Any) -> nn.Module | None:
    """A head of mmsegmentation's, without dropout."""
    heads = module_of("mmseg.models.decode_heads")
    if heads is None:
        return None
    several = isinstance(in_channels, list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(heads, name)(
            in_channels=in_channels,
            in_index=list(range(len(in_channels))) if several else 0,
            channels=channels,
            num_classes=num_classes,
            dropout_ratio=0.0,
            norm_cfg={"type": "BN"},
            align_corners=False,
            **options,
        )


def mmseg_loss() -> nn.Module | None:
    """mmsegmentation's cross entropy, averaged over the labelled pixels."""
    losses = module_of("mmseg.models.losses")
    return None if losses is None else losses.CrossEntropyLoss(avg_non_ignore=True)


def transformers_upernet_head(*, in_channels: list[int], channels: int, num_classes: int) -> nn.Module | None:
    upernet = module_of("transformers.models.upernet.modeling_upernet")
    if upernet is None:
        return None
    backbone = module_of("transformers").SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    config = module_of("transformers").UperNetConfig(backbone_config=backbone, hidden_size=channels)
    config.num_labels = num_classes
    return upernet.UperNetHead(config, in_channels)


class SmpUPerNet(nn.Module):
    """segmentation_models_pytorch's decoder and a classifier: of the same widths, another function."""

    def __init__(self, decoder: nn.Module, channels: int, num_classes: int):
        super().__init__()
        self.decoder = decoder
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: list[Any]) -> Any:
        """features: (N, C_i, H_i, W_i) of strides 4, 8, ... -> (N, num_classes, H_0, W_0)."""
        return self.classifier(self.decoder([None, None, *features]))


def smp_upernet_head(*, in_channels: list[int], channels: int, num_classes: int) -> nn.Module | None:
    decoders = module_of("segmentation_models_pytorch.decoders.upernet.decoder")
    if decoders is None:
        return None
    decoder = decoders.UPerNetDecoder([3, 3, *in_channels], decoder_channels=channels)
    return SmpUPerNet(decoder, channels, num_classes)


def detectron2_semantic_fpn(*, in_channels: int, channels: int, num_classes: int) -> nn.Module | None:
    """Detectron2's SemSegFPNHead on levels p2 to p5."""
    module = module_of("detectron2.modeling.meta_arch.semantic_seg")
    if module is None:
        return None
    shape = module_of("detectron2.layers").ShapeSpec
    shapes = {f"p{i}": shape(channels=in_channels, stride=2**i) for i in range(2, 6)}
    return module.SemSegFPNHead(shapes, num_classes=num_classes, conv_dims=channels, common_stride=4, norm="GN")
