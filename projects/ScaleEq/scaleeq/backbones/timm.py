"""Any timm model that offers features_only and strides 4, 8, 16, 32, as a backbone with levels res2 to res5.

Source: timm (github.com/huggingface/pytorch-image-models). Differences from timm's defaults, each for dense prediction:

- any input size. Models that round sizes down or refuse odd ones get the image padded with zeros at bottom and right to
  a multiple of 32, and their maps cropped to ceil(size / stride); the others see the image as it is. One probe at
  construction decides.
- Swin: no fixed input size, and every second block shifts its windows, at any size. (timm drops the shift of the last
  stage, because the map of a 224x224 image fits in one window. At 256x256 and above this equals the model that timm
  makes for that size.)
- HRNet: the four branches themselves, without the channel increase of the classifier.
- EfficientNet: any width and depth, see efficientnet.py.
- On request convolutions are dilated instead of strided from an output stride of 8 or 16 on (DeepLab).
- NCHW for all. Stochastic depth only as asked: 0.0 turns off what a model has by default (Swin).
- On request a layer norm, trained from scratch, on each level that leaves the backbone, as the dense-prediction code of
  Swin, ConvNeXt and Twins-SVT has them (mmsegmentation's included); what enters the next stage stays as it is.

timm is imported where a model is made: it takes a second, with the parts of torchvision and torch that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from scaleeq.choices import nearest, one_of
from scaleeq.layers import Level

from .base import PlainBackbone
from .efficientnet import scaled_efficientnet
from .freezing import freeze, keep_in_eval
from .packaged import packaged_file, packaged_weights, without_hub

LEVELS = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}  # stride of the level in pixels -> its name
PADDED_MULTIPLE = 32
OUTPUT_STRIDES = (8, 16, 32)  # pixels

# What makes a family fit for dense prediction, by the beginning of the model's name.
FAMILY_OPTIONS: dict[str, dict[str, Any]] = {
    "swin": {"strict_img_size": False, "always_partition": True},
    "hrnet": {"feature_location": ""},
}


class Weights(NamedTuple):
    """Weights of a timm model that somebody has read. source: where they come from, for messages."""

    tensors: dict[str, Tensor]
    source: str


class TimmBackbone(PlainBackbone):
    """A timm model as a backbone: image -> {"res2": stride 4, "res3": 8, "res4": 16, "res5": 32}.

    With an output stride, no level has a larger one.
    """

    def __init__(
        self,
        *,
        name: str,
        in_channels: int = 3,
        pretrained: bool | Weights = False,
        drop_path_rate: float = 0.0,
        level_norm: bool = False,
        freeze_at: int = 0,
        multipliers: tuple[float, float] = (1.0, 1.0),
        bn_momentum: float = 0.0,
        output_stride: int = 32,
    ) -> None:
        """
        name: as timm accepts it, with or without the tag of the weights ("resnet50", "resnet50.a1_in1k").
        pretrained: weights from an installed package (packaged.py), or else through timm, from its hub or the hub's
        local cache; or these of the timm model.
        drop_path_rate: probability in [0, 1) of dropping a residual branch of the last block; it rises linearly from 0
        at the first.
        level_norm: a layer norm over the channels of each level.
        freeze_at: number of frozen stages, 0 to 5, see freezing.py.
        multipliers: of channels and number of blocks of an EfficientNet-B0.
        bn_momentum: of all batch norms, weight of a new batch in the running statistics; 0: as timm sets it.
        output_stride: 8, 16 or 32 pixels, of the levels that would have a larger stride.

        Raises ValueError for a model that timm does not know, that has no four levels, no stochastic depth, no known
        stages or no dilated convolutions where they are asked for; OSError where pretrained
        weights cannot be had.
        """
        from timm.layers import LayerNorm2d

        super().__init__()
        self.name = name
        self._strides = {level: min(stride, output_stride) for stride, level in LEVELS.items()}
        self.body = create_body(name, in_channels, pretrained, drop_path_rate, multipliers, output_stride)
        # Widths and layout of its levels, and their norms.
        info: Any = self.body.feature_info
        self._channels = dict(zip(LEVELS.values(), info.channels(), strict=True))
        self._channels_last = getattr(self.body, "output_fmt", None) == "NHWC"
        norms = {level: LayerNorm2d(channels) for level, channels in self._channels.items()} if level_norm else {}
        self.level_norms = nn.ModuleDict(norms)
        for module in self.body.modules():
            if bn_momentum and isinstance(module, _BatchNorm):
                module.momentum = bn_momentum
        # Whether it takes images of any size.
        self._padded_multiple = self._probe(name, in_channels)
        self._frozen = freeze(self.body, freeze_at, name)
        self.train()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """image: (N, C, H, W), normalized, any size.

        Returns level name -> (N, channels, ceil(H / stride), ceil(W / stride)).
        """
        maps = self.maps(self.padded(image, self._padded_multiple))
        return {level: self.cropped(feature, image, stride) for level, stride, feature in maps}

    def maps(self, image: Tensor) -> list[tuple[str, int, Tensor]]:
        """image: (N, C, H, W), padded -> each level's name, stride and map (N, channels, h, w), as large as that."""
        found = []
        for (level, stride), feature in zip(self._strides.items(), self.body(image), strict=True):
            if self._channels_last:
                feature = feature.permute(0, 3, 1, 2)
            found.append((level, stride, self.level_norms[level](feature) if level in self.level_norms else feature))
        return found

    def keep_levels(self, levels: Collection[str]) -> None:
        """Drop the level norms of other levels than these."""
        for level in [level for level in self.level_norms if level not in levels]:
            del self.level_norms[level]

    def levels(self) -> dict[str, Level]:
        """Level name -> channels and stride."""
        return {level: Level(self._channels[level], stride) for level, stride in self._strides.items()}

    def train(self, mode: bool = True) -> TimmBackbone:
        """Sets the mode of everything but the frozen stages, which stay in eval mode."""
        super().train(mode)
        keep_in_eval(self.body, self._frozen)
        return self

    @torch.no_grad()
    def _probe(self, name: str, in_channels: int) -> int:
        """1 where the model itself rounds sizes up at every stride, else the multiple to which images are padded."""
        self.body.eval()
        image = torch.zeros(1, in_channels, PADDED_MULTIPLE + 1, 2 * PADDED_MULTIPLE + 1)
        reason = ""
        for self._padded_multiple in (1, PADDED_MULTIPLE):
            try:
                shapes = {level: tuple(feature.shape[1:]) for level, feature in self.forward(image).items()}
            except (AssertionError, RuntimeError, ValueError) as error:
                reason = str(error)
                continue
            # Its levels are halved sizes, rounded up.
            expected = {
                level: (self._channels[level], *(math.ceil(size / stride) for size in image.shape[-2:]))
                for level, stride in self._strides.items()
            }
            if shapes == expected:
                return self._padded_multiple
            reason = f"its maps of an image of {tuple(image.shape[-2:])} are {shapes}"
        raise ValueError(
            f"timm's {name} does not take images of any size, padded to a multiple of {PADDED_MULTIPLE}: {reason}"
        )


def create_body(
    name: str,
    in_channels: int = 3,
    pretrained: bool | Weights = False,
    drop_path_rate: float = 0.0,
    multipliers: tuple[float, float] = (1.0, 1.0),
    output_stride: int = 32,
) -> nn.Module:
    """The timm model that returns the four levels and has nothing that they do not need; see TimmBackbone."""
    # What the family and the config ask for.
    options = next((dict(given) for prefix, given in FAMILY_OPTIONS.items() if name.startswith(prefix)), {})
    options |= {"features_only": True, "in_chans": in_channels, "out_indices": (-4, -3, -2, -1)}
    one_of(output_stride, OUTPUT_STRIDES, key="MODEL.TIMM.OUTPUT_STRIDE")
    if output_stride != OUTPUT_STRIDES[-1]:
        options["output_stride"] = output_stride
    if multipliers != (1, 1) and pretrained is True:
        raise ValueError(
            f"MODEL.TIMM.PRETRAINED: there are no weights for {name} with WIDTH_MULTIPLIER and DEPTH_MULTIPLIER "
            f"{multipliers}; train from scratch, or name your own in MODEL.TIMM.PRETRAINED_FILE"
        )
    # The model, and whether it has the levels.
    make = None if multipliers == (1, 1) else partial(scaled_efficientnet, multipliers=multipliers)
    try:
        body = make_model(name, options, pretrained, drop_path_rate, make=make)
    except TypeError as error:
        if "output_stride" not in str(error):
            raise
        raise ValueError(
            f"timm's {name} cannot dilate, so MODEL.TIMM.OUTPUT_STRIDE {output_stride} means nothing: set it to 32"
        ) from error
    info: Any = body.feature_info
    if (strides := info.reduction()) != (needed := [min(stride, output_stride) for stride in LEVELS]):
        vit = "; a plain ViT is of MODEL.BACKBONE.NAME build_vit_backbone" if len(set(strides)) == 1 else ""
        raise ValueError(f"the last four levels of timm's {name} have strides {strides}, needed are {needed}{vit}")
    return body


def make_model(
    name: str,
    options: dict[str, Any],
    pretrained: bool | Weights,
    drop_path_rate: float,
    *,
    make: Callable[..., nn.Module] | None = None,
) -> nn.Module:
    """The timm model of a name, with its weights and its stochastic depth.

    options: of timm.create_model; make: what stands in its place.

    ValueError: an unknown name, weights that do not fit, no stochastic depth; OSError: weights that cannot be had;
    TypeError: an option that the model does not have.
    """
    import timm

    if ":" not in name and not timm.is_model(name):  # "hf-hub:..." and "local-dir:..." name a place, not a model
        near = nearest(name, timm.list_models(), count=5, cutoff=0.4)
        raise ValueError(
            f"MODEL.TIMM.NAME is {name!r}, but timm {timm.__version__} has no model {name!r}. Nearest: "
            f"{', '.join(near) or 'none'}"
        )
    if not 0 <= drop_path_rate < 1:
        raise ValueError(f"MODEL.TIMM.DROP_PATH_RATE is {drop_path_rate}: a probability in [0, 1) is needed")
    if drop_path_rate > 0:
        options = options | {"drop_path_rate": drop_path_rate}
    try:
        body = _create_with_weights(make or timm.create_model, name, options, pretrained)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise ValueError(_no_drop_path(name, drop_path_rate)) from error
    _set_drop_path(body, name, drop_path_rate)
    return body


def _create_with_weights(
    make: Callable[..., nn.Module], name: str, options: dict[str, Any], pretrained: bool | Weights
) -> nn.Module:
    if isinstance(pretrained, Weights):
        misfit = f"{pretrained.source} does not fit {name}"
        try:
            body = make(name, pretrained=True, pretrained_cfg_overlay={"state_dict": pretrained.tensors}, **options)
        except RuntimeError as error:
            raise ValueError(f"{misfit}: {error}") from error
        _require_loaded(body, pretrained.tensors, misfit)
        return body
    if not pretrained:
        return make(name, **options)
    if file := packaged_file(name):
        weights = Weights(packaged_weights(name, file), f"MODEL.TIMM.PRETRAINED: {file}")
        return _create_with_weights(make, name, options, weights)
    try:
        return make(name, pretrained=True, **options)
    except TypeError:
        raise
    except Exception as error:  # the hub's client has many errors of its own, by version and transport
        raise OSError(
            f"MODEL.TIMM.PRETRAINED: timm could not get pretrained weights for {name}. Where the hub is out of reach, "
            "download the model's file elsewhere and name it in MODEL.TIMM.PRETRAINED_FILE (goes before "
            f"MODEL.TIMM.PRETRAINED), {without_hub()}, or "
            f"train from scratch with MODEL.TIMM.PRETRAINED False ({error})"
        ) from error


def _require_loaded(body: nn.Module, weights: dict[str, Tensor], message: str) -> None:
    """Refuse a file from which nothing was taken: timm loads some families (HRNet, EfficientNet) leniently."""
    name, last = [(name, parameter) for name, parameter in body.named_parameters() if parameter.dim() > 1][-1]
    candidates = (weight.flatten() for weight in weights.values() if weight.numel() == last.numel())
    if not any(torch.equal(weight.to(last), last.flatten()) for weight in candidates):
        raise ValueError(f"{message}: the weights of {name} are not in it")


def _set_drop_path(body: nn.Module, name: str, rate: float) -> None:
    from timm.layers import DropPath

    drop_paths = [module for module in body.modules() if isinstance(module, DropPath)]
    if rate == 0:
        for module in drop_paths:
            module.drop_prob = 0.0
    elif not any(module.drop_prob > 0 for module in drop_paths):
        raise ValueError(_no_drop_path(name, rate))


def _no_drop_path(name: str, rate: float) -> str:
    return f"timm's {name} has no stochastic depth, so MODEL.TIMM.DROP_PATH_RATE {rate} means nothing: set it to 0"
