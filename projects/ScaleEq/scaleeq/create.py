"""create_model: a decoder and a backbone by name, as one plain module, without engine and config.

    model = create_model("uper", "resnet18", num_classes=8)
    logits = model(images)  # (N, 3, H, W), normalized -> (N, 8, H, W)

Its state dict has the keys of a checkpoint of `scaleeq train`, "backbone.*" and "sem_seg_head.*" (of several tasks
"decoders.*" and "tasks.*"), without the auxiliary heads that training alone needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from scaleeq import decoders
from scaleeq.backbones import PlainBackbone, TimmBackbone
from scaleeq.choices import one_of
from scaleeq.decoders import Decoder
from scaleeq.model import Segmentation
from scaleeq.tasks import SemanticTask, Task
from scaleeq.tasks.head import SegmentationHead
from scaleeq.tasks.joint import share_decoders

ALL = ("res2", "res3", "res4", "res5")  # strides 4, 8, 16, 32


class Kind(NamedTuple):
    """A decoder, the levels that it reads and its width, as published."""

    make: Callable[..., Decoder]
    levels: tuple[str, ...]
    channels: int


DECODERS = {
    "aspp": Kind(decoders.ASPP, ("res5",), 512),
    "eseg": Kind(decoders.ESeg, ALL, 96),
    "fcn": Kind(decoders.FCN, ("res5",), 512),
    "psp": Kind(decoders.PSP, ("res5",), 512),
    "semantic_fpn": Kind(decoders.SemanticFPN, ALL, 128),
    "sep_aspp": Kind(decoders.SepASPP, ("res2", "res5"), 512),
    "uper": Kind(decoders.UPer, ALL, 512),
}


def create_model(
    decoder: str,
    backbone: str | PlainBackbone,
    *,
    num_classes: int = 0,
    pretrained: bool = False,
    channels: int = 0,
    levels: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
    tasks: Sequence[Task] = (),
    share: str = "pyramid",
) -> Segmentation:
    """A model of normalized images (N, 3, H, W), whose logits (N, num_classes, H, W) have the images' size.

    Of several tasks it gives {task: (N, channels, H, W)}.

    Weights of the decoder, and of a backbone that is not pretrained, are random.

    Args:
        decoder: one of DECODERS.
        backbone: the name of a timm model with levels of strides 4 to 32, or a backbone of scaleeq.backbones; levels
            that the decoder does not read are dropped from it.
        pretrained: whether a backbone that is named gets timm's weights, from its hub or the hub's cache.
        channels: width of the decoder; 0: as published.
        levels: that the decoder reads, as "res5"; default as published.
        options: further arguments of the decoder's constructor, such as {"pyramid": PyramidOptions(...)}.
        tasks: instead of num_classes, what is predicted, such as [SemanticTask(num_classes=8), ...].
        share: of several tasks, what they have in common, as MODEL.TASKS.SHARE: "backbone", "pyramid", "decoder".

    Raises:
        ValueError: an unknown name, with the choices; neither num_classes nor tasks, or both; what the backbone or the
            decoder refuses.
        OSError: weights that cannot be had.
    """
    kind = DECODERS[one_of(decoder, DECODERS, key="decoder")]
    if isinstance(backbone, str):
        backbone = TimmBackbone(name=backbone, pretrained=pretrained)
    elif pretrained:
        raise ValueError("pretrained is True, but the backbone is built already; give its name, or its weights to it")
    offered, read = backbone.levels(), levels or kind.levels
    for level in read:
        one_of(level, offered, key="levels")
    channels = channels or kind.channels

    if bool(tasks) == bool(num_classes):
        raise ValueError(f"num_classes is {num_classes} and tasks {[task.name for task in tasks]}; give one of the two")
    make = partial(kind.make, {name: offered[name] for name in read}, channels, **(options or {}))
    if len(tasks) > 1:
        model = _create_joint(backbone, make, tasks, channels=channels, share=share)
        backbone.keep_levels(read)
        return model
    task = tasks[0] if tasks else SemanticTask(num_classes=num_classes)
    predictor = task.predictor(channels)  # draws before the decoder, as a config's
    built = make()
    backbone.keep_levels(read)
    return Segmentation(backbone=backbone, sem_seg_head=SegmentationHead(built, task, predictor=predictor))


def _create_joint(
    backbone: PlainBackbone, make: Callable[[], Decoder], tasks: Sequence[Task], *, channels: int, share: str
) -> Segmentation:
    """make: makes a decoder of that many channels. ValueError: a task twice."""
    named = {task.name: task for task in tasks}
    if len(named) < len(tasks):
        raise ValueError(f"tasks has {[task.name for task in tasks]}; give each task once")
    for task in tasks:  # predictors draw before the decoders, as a config's
        task.attach(channels)
    return Segmentation(backbone=backbone, decoders=share_decoders(dict.fromkeys(named, make), share), tasks=named)
