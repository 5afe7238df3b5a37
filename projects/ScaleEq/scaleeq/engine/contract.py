"""The contract of the engine port: the names that ScaleEq uses of Detectron2, as data.

Source: Detectron2 0.6's modules; the choice is this project's. At most 40 names, so that standalone/ stays small.
The door (`scaleeq.engine`) imports these names, the conformance suite in tests/engine is generated from this list, and
docs/engine.md shows it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

Side = Literal["detectron2", "standalone"]
MAX_NAMES = 40


@dataclass(frozen=True)
class Name:
    """One name: where Detectron2 keeps it, who calls it here, and the tests that hold both sides together."""

    name: str
    module: str  # of Detectron2, without "detectron2."
    callers: str
    tests: str  # "<file> <function> <function>; ...", in tests/engine


_CONFIG = "test_static test_config_tree test_config_use"
_BUILD = "test_static test_builders"

CONTRACT: tuple[Name, ...] = (
    Name("CfgNode", "config", "config, load_config", _CONFIG),
    Name("get_cfg", "config", "load_config, tools", _CONFIG),
    Name("configurable", "config", "heads, segmentor", "test_static test_configurable"),
    Name("META_ARCH_REGISTRY", "modeling", "segmentor", _BUILD),
    Name("BACKBONE_REGISTRY", "modeling", "backbones", _BUILD),
    Name("SEM_SEG_HEADS_REGISTRY", "modeling", "heads", _BUILD),
    Name("Backbone", "modeling", "backbones", _BUILD),
    Name("ShapeSpec", "layers", "backbones, heads", _BUILD),
    Name("build_model", "modeling", "training", _BUILD),
    Name("build_backbone", "modeling", "segmentor", _BUILD),
    Name("build_sem_seg_head", "modeling", "segmentor", _BUILD),
    Name("ImageList", "structures", "segmentor", "test_static test_image_list"),
    Name("sem_seg_postprocess", "modeling.postprocessing", "segmentor", "test_static test_postprocess"),
    Name("NaiveSyncBatchNorm", "layers", "layers", "test_static test_batch_norm"),
    Name("DatasetCatalog", "data", "data", "test_static test_catalogs"),
    Name("MetadataCatalog", "data", "data, evaluation", "test_static test_catalogs"),
    Name("InferenceSampler", "data.samplers", "data", "test_static test_inference_sampler"),
    Name("TrainerBase", "engine", "training", "TODO"),
    Name("HookBase", "engine", "training, statistics", "TODO"),
    Name("IterationTimer", "engine.hooks", "training", "TODO"),
    Name("LRScheduler", "engine.hooks", "training", "TODO"),
    Name("PeriodicWriter", "engine.hooks", "training", "TODO"),
    Name("PeriodicCheckpointer", "engine.hooks", "training", "TODO"),
    Name("EvalHook", "engine.hooks", "training", "TODO"),
    Name("launch", "engine", "tools", "TODO"),
    Name("default_argument_parser", "engine", "tools", "TODO"),
    Name("default_setup", "engine", "tools", "TODO"),
    Name("default_writers", "engine", "training", "TODO"),
    Name("EventStorage", "utils.events", "training", "TODO"),
    Name("get_event_storage", "utils.events", "segmentor, statistics", "TODO"),
    Name("EventWriter", "utils.events", "training", "TODO"),
    Name("DatasetEvaluator", "evaluation", "evaluation", "TODO"),
    Name("DatasetEvaluators", "evaluation", "evaluation", "TODO"),
    Name("inference_on_dataset", "evaluation", "training", "TODO"),
    Name("print_csv_format", "evaluation", "training", "TODO"),
    Name("verify_results", "evaluation", "training", "TODO"),
    Name("DetectionCheckpointer", "checkpoint", "engine", "test_static test_detection_checkpointer"),
    Name("comm", "utils", "everywhere", "TODO"),
    Name("seed_all_rng", "utils.env", "training", "TODO"),
    Name("setup_logger", "utils.logger", "tools", "TODO"),
)


def load_names(side: Side) -> dict[str, Any]:
    """Name -> object for every name of the contract, from one side. Raises ImportError naming what is missing."""
    found: dict[str, Any] = {}
    for entry in CONTRACT:
        module_name = f"detectron2.{entry.module}" if side == "detectron2" else "scaleeq.engine.standalone"
        module = importlib.import_module(module_name)
        if entry.name == "comm":  # a module, which its package need not have imported
            importlib.import_module(f"{module_name}.comm")
        if not hasattr(module, entry.name):
            raise ImportError(f"{module_name} has no {entry.name!r}, which scaleeq.engine needs")
        found[entry.name] = getattr(module, entry.name)
    return found


def markdown_table() -> str:
    """The contract as the table of docs/engine.md."""
    rows = ["| name | in detectron2 | who calls it | tests |", "|---|---|---|---|"]
    rows += [f"| {entry.name} | {entry.module} | {entry.callers} | {entry.tests} |" for entry in CONTRACT]
    return "\n".join(rows)
