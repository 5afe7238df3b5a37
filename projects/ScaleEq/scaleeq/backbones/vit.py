"""Plain vision transformers of timm as backbones: chosen blocks, all at one stride, or ViTDet's simple feature pyramid.

Sources: timm's ViTs and EVAs (DeiT, DINO, DINOv2, DINOv3, SigLIP, ...). DINOv2 (arXiv 2304.07193, section 7.4)
classifies the concatenated maps of the last four blocks, each after the model's last norm: an FCN of levels here, whose
one Fusion is that concatenation. ViTDet (arXiv 2203.16527, section 3 and its released code) makes strides 4, 8, 16 and
32 of the last block's map alone, without that norm.

Deviations. Any input size: position tables are resampled to the image's grid (timm's dynamic_img_size), images are
padded with zeros at bottom and right to a multiple of the patch, and maps cropped to ceil(size / stride); the pyramid's
pooling rounds up, which is the same at multiples of 32. Every block attends to the whole image; ViTDet has windows in
most blocks.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from scaleeq.choices import one_of
from scaleeq.layers import Level

from .base import PlainBackbone
from .freezing import freeze, keep_in_eval
from .timm import LEVELS, Weights, make_model

PYRAMIDS = ("", "simple")
PYRAMID_PATCH = 16  # pixels; the strides of LEVELS are a quarter of it to its double
LEVEL_STRIDES = {level: stride for stride, level in LEVELS.items()}  # name of the level -> pixels


class ViTBackbone(PlainBackbone):
    """A plain ViT: image -> {"layer1": map after the first block, ..., "layer12": after the last}, all of one stride.

    With the simple pyramid: image -> {"res2": stride 4, "res3": 8, "res4": 16, "res5": 32}. `keep_levels` drops the
    blocks, or paths of the pyramid, that no level needs.
    """

    def __init__(
        self,
        *,
        name: str,
        in_channels: int = 3,
        pretrained: bool | Weights = False,
        drop_path_rate: float = 0.0,
        freeze_at: int = 0,
        patch_size: int = 0,
        final_norm: bool = False,
        pyramid: str = "",
        pyramid_channels: int = 256,
    ) -> None:
        """
        name, in_channels, pretrained, drop_path_rate: as TimmBackbone's.
        freeze_at: 0 to 5: nothing, the patch and position embedding, and a quarter of the blocks more each.
        patch_size: pixels; the weights of other patches, and of their positions, are resampled; 0: the model's own.
        final_norm: the model's last norm on each level, as DINOv2 has it; of a pyramid, on what it is made of.
        pyramid: "simple", or "" for the blocks' own maps.
        pyramid_channels: width of each level of the pyramid.

        Raises ValueError for an unknown value or a model that is no plain ViT; and whatever TimmBackbone raises.
        """
        super().__init__()
        self.name = name
        self.body = _create_body(name, in_channels, pretrained, drop_path_rate, patch_size, final_norm)
        model: Any = self.body.model
        self._channels, self.patch = model.embed_dim, _patch_of(model, name)
        self._layers = [f"layer{number}" for number in range(1, len(model.blocks) + 1)]
        self.pyramid: SimplePyramid | None = None
        # The pyramid, of the last block alone.
        if one_of(pyramid, PYRAMIDS, key="MODEL.VIT.PYRAMID"):
            if self.patch != PYRAMID_PATCH:
                raise ValueError(
                    f"the patches of {name} are {self.patch} pixels wide, and strides 4 to 32 need {PYRAMID_PATCH}: "
                    f"set MODEL.VIT.PATCH_SIZE {PYRAMID_PATCH}, or MODEL.VIT.PYRAMID ''"
                )
            self.keep_levels(self._layers[-1:])
            self.pyramid = SimplePyramid(self._channels, pyramid_channels)
        # Whether it takes images of any size.
        self._probe(in_channels)
        self._frozen = freeze(self.body, freeze_at, name)
        self.train()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image: (N, C, H, W), normalized, any size.

        Returns level name -> (N, channels, ceil(H / stride), ceil(W / stride)).
        """
        shapes = self.levels()
        found = self.maps(self.padded(image, self.patch))
        return {level: self.cropped(feature, image, shapes[level].stride) for level, feature in found.items()}

    def maps(self, image: Tensor) -> dict[str, Tensor]:
        """image: (N, C, H, W), sides multiples of the patch -> level -> (N, channels, h, w), not cropped."""
        maps = self.body(image)
        return self.pyramid(maps[-1]) if self.pyramid is not None else dict(zip(self._layers, maps, strict=True))

    def levels(self) -> dict[str, Level]:
        """Level name -> channels and stride."""
        if self.pyramid is None:
            return {layer: Level(self._channels, self.patch) for layer in self._layers}
        return {level: Level(self.pyramid.channels, LEVEL_STRIDES[level]) for level in self.pyramid.levels}

    def keep_levels(self, levels: Collection[str]) -> None:
        """Drop what only makes other levels than these: the blocks after the last of them, or paths of the pyramid."""
        if self.pyramid is not None:
            self.pyramid.keep(levels)
            return
        numbers = [number for number, layer in enumerate(self._layers) if layer in levels]
        body: Any = self.body
        kept = [body.out_indices[number] for number in numbers]
        body.out_indices = body.model.prune_intermediate_layers(kept, prune_norm=not body.norm)
        self._layers = [self._layers[number] for number in numbers]

    def train(self, mode: bool = True) -> ViTBackbone:
        """Sets the mode of everything but the frozen stages, which stay in eval mode."""
        super().train(mode)
        keep_in_eval(self.body, self._frozen)
        return self

    @torch.no_grad()
    def _probe(self, in_channels: int) -> None:
        """ValueError: it cannot take images of another size, or its maps have other strides than they should."""
        self.body.eval()
        image = torch.zeros(1, in_channels, self.patch + 1, 2 * self.patch + 1)
        try:
            shapes = [tuple(feature.shape[-2:]) for feature in self.forward(image).values()]
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(_no_vit(self.name, str(error))) from error
        strides = [level.stride for level in self.levels().values()]
        expected = [tuple(math.ceil(size / stride) for size in image.shape[-2:]) for stride in strides]
        if shapes != expected:
            raise ValueError(_no_vit(self.name, f"its maps of an image of {tuple(image.shape[-2:])} are {shapes}"))


class SimplePyramid(nn.Module):
    """ViTDet's simple feature pyramid: one map of stride 16 -> levels of strides 4, 8, 16 and 32.

    Each level is resampled on its own, by transposed convolutions or by max pooling, then 1x1 and 3x3 convolutions with
    a layer norm each.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        """in_channels: of the map; channels: of each level."""
        from timm.layers import LayerNorm2d

        super().__init__()
        self.channels = channels
        half, quarter = in_channels // 2, in_channels // 4

        def doubled(width: int, narrower: int) -> nn.Module:
            return nn.ConvTranspose2d(width, narrower, kernel_size=2, stride=2)

        # Each level: what changes the size of the map, then a lateral and an output convolution.
        resampled: dict[str, tuple[list[nn.Module], int]] = {
            "res2": ([doubled(in_channels, half), LayerNorm2d(half), nn.GELU(), doubled(half, quarter)], quarter),
            "res3": ([doubled(in_channels, half)], half),
            "res4": ([], in_channels),
            "res5": ([nn.MaxPool2d(2, ceil_mode=True)], in_channels),
        }
        self.levels = nn.ModuleDict()
        for level, (steps, width) in resampled.items():
            lateral = nn.Conv2d(width, channels, 1, bias=False)
            output = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.levels[level] = nn.Sequential(*steps, lateral, LayerNorm2d(channels), output, LayerNorm2d(channels))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: (N, C, H, W), of stride 16 -> level -> (N, channels, h, w): 4 H, 2 H, H, ceil(H / 2) high."""
        return {level: path(x) for level, path in self.levels.items()}

    def keep(self, levels: Collection[str]) -> None:
        """Drop the paths of other levels than these."""
        for level in [level for level in self.levels if level not in levels]:
            del self.levels[level]


def _create_body(
    name: str,
    in_channels: int,
    pretrained: bool | Weights,
    drop_path_rate: float,
    patch_size: int,
    final_norm: bool,
) -> Any:
    """timm's model, wrapped so that it returns the maps of all its blocks, without its head."""
    from timm.models._features import FeatureGetterNet

    options: dict[str, Any] = {"num_classes": 0, "in_chans": in_channels, "dynamic_img_size": True}
    if patch_size:
        options["patch_size"] = patch_size
    try:
        model: Any = make_model(name, options, pretrained, drop_path_rate)
    except TypeError as error:
        if not any(option in str(error) for option in options):
            raise
        raise ValueError(_no_vit(name, str(error))) from error
    if not all(hasattr(model, part) for part in ("blocks", "patch_embed", "prune_intermediate_layers")):
        raise ValueError(_no_vit(name, f"it is a {type(model).__name__}"))
    return FeatureGetterNet(model, out_indices=list(range(len(model.blocks))), norm=final_norm)


def _patch_of(model: Any, name: str) -> int:
    """The side of a patch in pixels. ValueError: patches are no squares, or there are none."""
    sides = set(getattr(model.patch_embed, "patch_size", ()))
    if len(sides) != 1:
        raise ValueError(_no_vit(name, f"its patches are {sorted(sides)}"))
    return int(sides.pop())


def _no_vit(name: str, reason: str) -> str:
    return (
        f"MODEL.TIMM.NAME is {name!r}, which is no plain ViT for images of any size ({reason}); choose one such as "
        "vit_small_patch14_dinov2, or MODEL.BACKBONE.NAME build_timm_backbone for models with levels of their own"
    )
