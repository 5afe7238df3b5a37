"""The embedded default engine: the names of `scaleeq.engine.contract`, without Detectron2.

Source: the behaviour of Detectron2 0.6 (documentation, code read for facts, results recorded in tests/engine/goldens).
Built, as Detectron2 itself, on fvcore, iopath, yacs and torch; a file holds what a package of Detectron2 does (the
column "in detectron2" of docs/engine.md).
Deviations: left out is what ScaleEq never calls; each module's docstring says what.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import comm
    from .checkpoint import DetectionCheckpointer
    from .config import CfgNode, configurable, get_cfg
    from .data import DatasetCatalog, InferenceSampler, MetadataCatalog
    from .defaults import default_argument_parser, default_setup, default_writers, seed_all_rng
    from .evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset, print_csv_format, verify_results
    from .events import EventStorage, EventWriter, get_event_storage
    from .hooks import EvalHook, IterationTimer, LRScheduler, PeriodicCheckpointer, PeriodicWriter
    from .launch import launch
    from .layers import NaiveSyncBatchNorm, ShapeSpec
    from .logger import setup_logger
    from .modeling import (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        SEM_SEG_HEADS_REGISTRY,
        Backbone,
        build_backbone,
        build_model,
        build_sem_seg_head,
    )
    from .structures import ImageList
    from .train_loop import HookBase, TrainerBase

__version__ = "0.6"  # the Detectron2 version whose behaviour this package reproduces

__all__ = [
    "BACKBONE_REGISTRY",
    "META_ARCH_REGISTRY",
    "SEM_SEG_HEADS_REGISTRY",
    "Backbone",
    "CfgNode",
    "DatasetCatalog",
    "DatasetEvaluator",
    "DatasetEvaluators",
    "DetectionCheckpointer",
    "EvalHook",
    "EventStorage",
    "EventWriter",
    "HookBase",
    "ImageList",
    "InferenceSampler",
    "IterationTimer",
    "LRScheduler",
    "MetadataCatalog",
    "NaiveSyncBatchNorm",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "ShapeSpec",
    "TrainerBase",
    "build_backbone",
    "build_model",
    "build_sem_seg_head",
    "comm",
    "configurable",
    "default_argument_parser",
    "default_setup",
    "default_writers",
    "get_cfg",
    "get_event_storage",
    "inference_on_dataset",
    "launch",
    "print_csv_format",
    "seed_all_rng",
    "setup_logger",
    "verify_results",
]

# A name and the module that it is imported from on first use: the config alone needs no torch.
_HOMES = {
    "comm": "",
    "Backbone": "modeling",
    "NaiveSyncBatchNorm": "layers",
    "BACKBONE_REGISTRY": "modeling",
    "META_ARCH_REGISTRY": "modeling",
    "SEM_SEG_HEADS_REGISTRY": "modeling",
    "build_backbone": "modeling",
    "build_model": "modeling",
    "build_sem_seg_head": "modeling",
    "DatasetCatalog": "data",
    "MetadataCatalog": "data",
    "CfgNode": "config",
    "configurable": "config",
    "get_cfg": "config",
    "default_argument_parser": "defaults",
    "default_setup": "defaults",
    "default_writers": "defaults",
    "DetectionCheckpointer": "checkpoint",
    "seed_all_rng": "defaults",
    "DatasetEvaluator": "evaluation",
    "DatasetEvaluators": "evaluation",
    "inference_on_dataset": "evaluation",
    "EventStorage": "events",
    "EventWriter": "events",
    "get_event_storage": "events",
    "EvalHook": "hooks",
    "IterationTimer": "hooks",
    "LRScheduler": "hooks",
    "PeriodicCheckpointer": "hooks",
    "PeriodicWriter": "hooks",
    "ImageList": "structures",
    "launch": "launch",
    "setup_logger": "logger",
    "InferenceSampler": "data",
    "ShapeSpec": "layers",
    "print_csv_format": "evaluation",
    "verify_results": "evaluation",
    "HookBase": "train_loop",
    "TrainerBase": "train_loop",
}


if not TYPE_CHECKING:  # a type checker would take it for permission to import any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if not _HOMES[name]:
            return importlib.import_module(f".{name}", __name__)
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
