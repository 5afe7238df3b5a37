"""Decoders with a classifier of 150 classes on random maps: ours in its forms, and the peers', with the same weights.

Outputs are compared before anything is measured; in training, outputs and gradients in float64 on maps of an eighth of
the size, because a ReLU that rounding flips changes a gradient in float32 by far more than any rewrite.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from scaleeq.converters import convert_mmseg_head, convert_semantic_fpn_head, convert_upernet_head
from scaleeq.decoders import ASPP, PSP, Decoder, PyramidOptions, SemanticFPN, UPer
from scaleeq.equalization import EqualizerSpec, equalize_fusions
from scaleeq.equalization.calibration import fusions_of
from scaleeq.equalization.folding import fold_for_inference
from scaleeq.fusion import evaluate_fusions
from scaleeq.layers import Level
from scaleeq.tasks import SemanticTask
from scaleeq.tasks.head import SegmentationHead

from . import peers
from .rounds import Contender

CLASSES = 150
SWIN_TINY = {"res2": 96, "res3": 192, "res4": 384, "res5": 768}
MMSEG, TRANSFORMERS, SMP, DETECTRON2 = "mmsegmentation", "transformers", "segmentation_models_pytorch", "Detectron2"
OURS, PLAIN, EQUALIZED = "ScaleEq", "ScaleEq, plain", "ScaleEq, equalizers not folded"
LAST, FOLDED = "ScaleEq, channels last", "ScaleEq, folded"
GRADIENTS = 1e-9  # tolerance, of the largest

Features = dict[str, torch.Tensor]
Goals = Mapping[str, tuple[float | None, float | None]]


class Setting(NamedTuple):
    """device: of all. shrink: widths and sizes are divided by it, for a test."""

    device: str = "cpu"
    shrink: int = 1


class Maps(NamedTuple):
    """Of random levels: pixels of the square image, images, and whether it is a training step."""

    image: int
    batch: int
    train: bool = False


class Rival(NamedTuple):
    """A head, and how it is called with the levels' maps. same: it computes what the first one does."""

    name: str
    head: nn.Module
    call: Callable[[Any, Features], torch.Tensor]
    same: bool = True
    channels_last: bool = False
    to: str = ""


def uper(setting: Setting, maps: Maps, goals: Goals) -> list[Contender]:
    """UPerNet's head of 512 channels on a Swin-T pyramid."""
    width = 512 // setting.shrink
    levels = {name: Level(c // setting.shrink, 4 << i) for i, (name, c) in enumerate(SWIN_TINY.items())}
    options: dict[str, Any] = {"channels": width, "num_classes": CLASSES}
    options["in_channels"] = [level.channels for level in levels.values()]
    head = _own(UPer(levels, width))
    found = {
        MMSEG: peers.mmseg_head("UPerHead", pool_scales=(1, 2, 3, 6), **options),
        TRANSFORMERS: peers.transformers_upernet_head(**options),
        SMP: peers.smp_upernet_head(**options),
    }
    _share_weights(head, found[MMSEG], found[TRANSFORMERS])
    rivals = [Rival(name, each, _listed, same=name != SMP) for name, each in found.items() if each is not None]
    return _contenders(setting, levels, [*rivals, *_forms(head, maps)], maps, goals)


def psp(setting: Setting, maps: Maps, goals: Goals) -> list[Contender]:
    """PSPNet's head of 512 channels on the last level of a ResNet-50 of output stride 8."""
    width, levels = 512 // setting.shrink, {"res5": Level(2048 // setting.shrink, 8)}
    return _of_one_level(setting, levels, PSP(levels, width), "PSPHead", maps, goals, pool_scales=(1, 2, 3, 6))


def aspp(setting: Setting, maps: Maps, goals: Goals) -> list[Contender]:
    """DeepLabV3's head of 256 channels on the last level of a ResNet-50 of output stride 8."""
    width, levels = 256 // setting.shrink, {"res5": Level(2048 // setting.shrink, 8)}
    dilations = (1, 12, 24, 36)
    return _of_one_level(setting, levels, ASPP(levels, width), "ASPPHead", maps, goals, dilations=dilations)


def semantic_fpn(setting: Setting, maps: Maps, goals: Goals) -> list[Contender]:
    """Panoptic FPN's semantic head of 128 channels, with group norm, on the levels of a pyramid of 256."""
    width, channels = max(32, 128 // setting.shrink), 256 // setting.shrink  # a group norm has 32 groups
    levels = {f"p{i}": Level(channels, 2**i) for i in range(2, 6)}
    head = _own(SemanticFPN(levels, width, pyramid=PyramidOptions(name="none", channels=channels)))
    peer = peers.detectron2_semantic_fpn(in_channels=channels, channels=width, num_classes=CLASSES)
    if peer is not None:
        head.load_state_dict(convert_semantic_fpn_head(head, peer.state_dict(), prefix=""))
    rivals = [] if peer is None else [Rival(DETECTRON2, peer, _layers)]
    return _contenders(setting, levels, [*rivals, Rival(OURS, head, _logits)], maps, goals)


def _of_one_level(
    setting: Setting, levels: dict[str, Level], decoder: Decoder, theirs: str, maps: Maps, goals: Goals, **options: Any
) -> list[Contender]:
    """theirs: the name of mmsegmentation's head, with its own options."""
    head = _own(decoder)
    (level,) = levels.values()
    peer = peers.mmseg_head(
        theirs, in_channels=level.channels, channels=decoder.out.channels, num_classes=CLASSES, **options
    )
    _share_weights(head, peer)
    rivals = [] if peer is None else [Rival(MMSEG, peer, lambda head, features: head([features["res5"]]))]
    return _contenders(setting, levels, [*rivals, *_forms(head, maps)], maps, goals)


def _own(decoder: Decoder) -> SegmentationHead:
    task = SemanticTask(num_classes=CLASSES)
    return SegmentationHead(decoder, task, dropout=0.0, predictor=task.predictor(decoder.out.channels))


def _share_weights(head: SegmentationHead, mmseg: nn.Module | None, upernet: nn.Module | None = None) -> None:
    """Give our head a peer's weights, and transformers' head the same ones."""
    if mmseg is not None:
        head.load_state_dict(convert_mmseg_head(head, mmseg.state_dict(), prefix=""))
    if mmseg is not None and upernet is not None:
        names = {
            key: key.replace(".bn.", ".batch_norm.").replace("conv_seg.", "classifier.") for key in mmseg.state_dict()
        }
        upernet.load_state_dict({names[key]: value for key, value in mmseg.state_dict().items()})
    elif upernet is not None:
        head.load_state_dict(convert_upernet_head(head, upernet.state_dict(), prefix=""))


def _forms(head: SegmentationHead, maps: Maps) -> list[Rival]:
    """Ours: evaluated per branch, in the other layout, plainly, and with equalizers that change nothing (0 and 1).

    In inference also as `--eval-only` evaluates it: equalizers and norms folded.
    """
    plain, equalized = copy.deepcopy(head), copy.deepcopy(head)
    evaluate_fusions(plain, "plain")
    equalize_fusions(equalized, EqualizerSpec())
    for fusion in fusions_of(equalized).values():
        for each in fusion.equalizer_of.values():
            each.set_statistics(torch.zeros_like(each.mean), torch.ones_like(each.std), 1)
    forms = [Rival(OURS, head, _logits)]
    if not maps.train:
        folded = copy.deepcopy(equalized)
        fold_for_inference(folded)
        forms += [
            Rival(LAST, copy.deepcopy(head), _logits, channels_last=True),
            Rival(FOLDED, folded, _logits),
        ]
    return [
        *forms,
        Rival(PLAIN, plain, _logits),
        Rival(EQUALIZED, equalized, _logits, to=OURS),
    ]


def _logits(head: Any, features: Features) -> torch.Tensor:
    return head.logits(features)


def _listed(head: Any, features: Features) -> torch.Tensor:
    return head(list(features.values()))


def _layers(head: Any, features: Features) -> torch.Tensor:
    return head.layers(features)


def _contenders(
    setting: Setting, levels: dict[str, Level], rivals: list[Rival], maps: Maps, goals: Goals
) -> list[Contender]:
    generator = torch.Generator().manual_seed(0)
    image = max(64, maps.image // setting.shrink)  # a group norm of one pixel and one channel is refused
    features = _features(levels, image, maps.batch, generator)
    differences: dict[str, float | None] = {}
    if maps.train:
        small = _features(levels, max(64, image // 8), maps.batch, generator)
        differences = _gradient_differences([rival for rival in rivals if rival.same], small)
    return [_contender(rival, features, setting.device, maps, goals, differences.get(rival.name)) for rival in rivals]


def _features(levels: dict[str, Level], image: int, batch: int, generator: torch.Generator) -> Features:
    return {
        name: torch.randn(
            batch, level.channels, -(-image // level.stride), -(-image // level.stride), generator=generator
        )
        for name, level in levels.items()
    }


def _contender(
    rival: Rival, features: Features, device: str, maps: Maps, goals: Goals, gradients: float | None
) -> Contender:
    layout = torch.channels_last if rival.channels_last else torch.contiguous_format
    rival.head.train(maps.train).to(device=device, memory_format=layout)  # type: ignore[call-overload]
    given = {name: x.to(device).contiguous(memory_format=layout) for name, x in features.items()}
    if maps.train:
        for x in given.values():
            x.requires_grad_()

    def infer() -> torch.Tensor:
        with torch.inference_mode():
            return rival.call(rival.head, dict(given))

    def forget() -> None:
        rival.head.zero_grad()
        for x in given.values():
            x.grad = None

    def step() -> torch.Tensor:
        forget()
        out = rival.call(rival.head, dict(given))
        out.square().mean().backward()
        return out.detach()

    return Contender(
        name=rival.name,
        turn=step if maps.train else infer,
        output=infer if rival.same and not maps.train else None,
        to=rival.to,
        goal=goals.get(rival.name, (None, None)),
        prepare=forget,
        gradient_difference=gradients,
    )


def _gradient_differences(rivals: list[Rival], features: Features) -> dict[str, float | None]:
    """Rival -> the largest difference of its gradients by the maps to the first one's, in float64.

    ValueError: one that is not the first one's.
    """
    gradients = {}
    for rival in rivals:
        rival.head.double().train()
        given = {name: x.double().requires_grad_() for name, x in features.items()}
        out = rival.call(rival.head, dict(given))
        found = torch.autograd.grad(out.square().mean(), list(given.values()))
        gradients[rival.name] = torch.cat([gradient.flatten() for gradient in found])
        rival.head.float()
    first = next(iter(gradients.values()))
    differences: dict[str, float | None] = {}
    for name, gradient in gradients.items():
        difference = float((gradient - first).abs().max() / first.abs().max())
        if not difference <= GRADIENTS:
            raise ValueError(f"gradients of {name} differ by {difference:.1e} of the largest one")
        differences[name] = difference if gradient is not first else None
    return differences
