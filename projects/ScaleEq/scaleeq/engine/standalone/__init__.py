"""The embedded default engine: the names of `scaleeq.engine.contract`, without Detectron2.

Source: the behaviour of Detectron2 0.6 (documentation, code read for facts, results recorded in tests/engine/goldens).
Built, as Detectron2 itself, on fvcore, iopath, yacs and torch; a file holds what a package of Detectron2 does (the
column "in detectron2" of docs/engine.md).
Deviations: left out is what ScaleEq never calls; each module's docstring says what.
"""

# ruff: noqa: F401 (what stands under TYPE_CHECKING is for type checkers; _HOMES hands on the same names)

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import comm
    from .checkpoint import DetectionCheckpointer
    from .config import CfgNode, get_cfg
    from .data import DatasetCatalog, InferenceSampler, MetadataCatalog
    from .defaults import default_argument_parser, default_setup, default_writers, seed_all_rng
    from .evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset, print_csv_format, verify_results
    from .events import EventStorage, EventWriter, get_event_storage
    from .hooks import EvalHook, IterationTimer, LRScheduler, PeriodicCheckpointer, PeriodicWriter
    from .launcher import launch
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
    from .train_loop import HookBase, TrainerBase

__version__ = "0.6"  # the Detectron2 version whose behaviour this package reproduces

# The module of each name, which is imported on the name's first use: the config alone needs no torch.
_HOMES = {
    name: module
    for module, names in {
        "checkpoint": ("DetectionCheckpointer",),
        "comm": ("comm",),
        "config": ("CfgNode", "get_cfg"),
        "data": ("DatasetCatalog", "InferenceSampler", "MetadataCatalog"),
        "defaults": ("default_argument_parser", "default_setup", "default_writers", "seed_all_rng"),
        "evaluation": (
            *("DatasetEvaluator", "DatasetEvaluators", "inference_on_dataset"),
            *("print_csv_format", "verify_results"),
        ),
        "events": ("EventStorage", "EventWriter", "get_event_storage"),
        "hooks": ("EvalHook", "IterationTimer", "LRScheduler", "PeriodicCheckpointer", "PeriodicWriter"),
        "launcher": ("launch",),
        "layers": ("NaiveSyncBatchNorm", "ShapeSpec"),
        "logger": ("setup_logger",),
        "modeling": (
            *("BACKBONE_REGISTRY", "META_ARCH_REGISTRY", "SEM_SEG_HEADS_REGISTRY"),
            *("Backbone", "build_backbone", "build_model", "build_sem_seg_head"),
        ),
        "train_loop": ("HookBase", "TrainerBase"),
    }.items()
    for name in names
}


if not TYPE_CHECKING:  # a type checker would take it for permission to import any name
    __all__ = list(_HOMES)

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f".{_HOMES[name]}", __name__)
        globals()[name] = value = module if name == "comm" else getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
