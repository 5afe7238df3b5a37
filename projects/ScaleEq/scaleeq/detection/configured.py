"""TorchvisionDetector under its name in the engine's registry, MODEL.META_ARCHITECTURE: built of a config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from scaleeq.choices import one_of
from scaleeq.config.detection import PYRAMID_BACKBONES
from scaleeq.engine import META_ARCH_REGISTRY, ShapeSpec, build_backbone
from scaleeq.equalization import equalize_as_configured
from scaleeq.fusion import evaluate_fusions
from scaleeq.layers import Level
from scaleeq.tasks import Task, build_tasks
from scaleeq.tasks.configured import HEADS
from scaleeq.tasks.detectron2 import checked_levels
from scaleeq.tasks.joint import TaskDecoders

from . import registered  # noqa: F401  (the backbones that it is built on)
from .detector import INSTANCES, LABELS, TorchvisionDetector
from .panoptic import MergeOptions
from .torchvision_heads import ONE_STAGE, DetectorOptions, make_detector

if TYPE_CHECKING:
    from yacs.config import CfgNode


def build_detector(cfg: CfgNode) -> TorchvisionDetector:
    """The detector of a config; ValueError: a name or a value that cannot be meant."""
    one_of(cfg.MODEL.BACKBONE.NAME, PYRAMID_BACKBONES, key="MODEL.BACKBONE.NAME of a TorchvisionDetector")
    options, tasks = detector_options(cfg), build_tasks(cfg)
    if INSTANCES not in tasks:
        raise ValueError(
            f"MODEL.TASKS.NAMES is {list(tasks)}, but a TorchvisionDetector (MODEL.META_ARCHITECTURE) predicts "
            "'instances'; add it"
        )
    things = thing_labels(cfg, options, tasks)
    # Only the levels that somebody reads.
    backbone: Any = build_backbone(cfg)
    shapes = backbone.output_shape()
    decoders = dense_decoders(cfg, shapes, {name: task for name, task in tasks.items() if name != INSTANCES})
    levels = detector_levels(options, shapes)
    backbone.keep_levels({*levels, *(decoders.in_features if decoders else ())})
    # One model of all tasks.
    if cfg.MODEL.TASKS.WEIGHTING == "uncertainty":
        for task in tasks.values():
            task.learn_weight()
    weights = cfg.MODEL.TASKS.WEIGHTS
    merge = cfg.MODEL.PANOPTIC_FPN.COMBINE
    model = TorchvisionDetector(
        backbone=backbone,
        detector=make_detector(options, levels, list(backbone.extra_levels)),
        levels=list(levels),
        tasks=tasks,
        decoders=decoders,
        task_weights=dict(zip(tasks, weights, strict=True)) if weights else {},
        thing_labels=things,
        merge_options=MergeOptions(
            overlap=merge.OVERLAP_THRESH, score=merge.INSTANCES_CONFIDENCE_THRESH, stuff_area=merge.STUFF_AREA_LIMIT
        ),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    evaluate_fusions(model, cfg.MODEL.FUSION.EVALUATE)
    return model


def detector_options(cfg: CfgNode) -> DetectorOptions:
    """MODEL.DETECTOR, and TEST.DETECTIONS_PER_IMAGE. ValueError: a value that cannot be meant."""
    keys = cfg.MODEL.DETECTOR
    return DetectorOptions(
        name=keys.NAME,
        num_classes=keys.NUM_CLASSES,
        score_thresh=keys.SCORE_THRESH,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        anchor_sizes=tuple(keys.ANCHOR_SIZES),
        regions_per_image=keys.REGIONS_PER_IMAGE,
        box_dim=keys.BOX_DIM,
        mask_dim=keys.MASK_DIM,
    )


def thing_labels(cfg: CfgNode, options: DetectorOptions, tasks: Any) -> tuple[int, ...]:
    """MODEL.DETECTOR.THING_LABELS. ValueError: they do not fit the classes, or nothing is to be merged."""
    labels = tuple(cfg.MODEL.DETECTOR.THING_LABELS)
    if not labels:
        return ()
    key = f"MODEL.DETECTOR.THING_LABELS is {list(labels)}"
    if len(labels) != options.num_classes or len(set(labels)) < len(labels):
        raise ValueError(f"{key}; give a label for each of the MODEL.DETECTOR.NUM_CLASSES {options.num_classes}, or []")
    if max(labels) >= cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
        raise ValueError(f"{key}, but MODEL.SEM_SEG_HEAD.NUM_CLASSES is {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}")
    if options.name != "mask_rcnn" or LABELS not in tasks:
        raise ValueError(
            f"{key}, for panoptic segments, which are made of masks and a map of labels: set MODEL.DETECTOR.NAME "
            "mask_rcnn and MODEL.TASKS.NAMES [instances, sem_seg]; or leave it []"
        )
    return labels


def detector_levels(options: DetectorOptions, shapes: Any) -> dict[str, Level]:
    """The levels that a detector reads: all of the backbone, RetinaNet and FCOS those from stride 8 on."""
    finest = 8 if options.name in ONE_STAGE else 0
    return {name: Level(s.channels, s.stride) for name, s in shapes.items() if s.stride >= finest}


def dense_decoders(cfg: CfgNode, shapes: dict[str, ShapeSpec], tasks: dict[str, Task]) -> TaskDecoders | None:
    """The decoders of the tasks that are maps, on the backbone's pyramid; None: there are none."""
    if not tasks:
        return None
    head = cfg.MODEL.SEM_SEG_HEAD
    one_of(head.NAME, HEADS, key="MODEL.SEM_SEG_HEAD.NAME")
    levels = checked_levels([head.NAME], cfg, shapes)
    for task in tasks.values():
        task.attach(head.CONVS_DIM, dropout=head.DROPOUT)
    decoders = TaskDecoders(list(tasks), {name: HEADS[head.NAME].make(cfg, levels) for name in tasks})
    equalize_as_configured(nn.ModuleDict({"decoders": decoders}), cfg)
    return decoders


build_detector.__name__ = TorchvisionDetector.__name__  # a registry knows a function by it
META_ARCH_REGISTRY.register(build_detector)
