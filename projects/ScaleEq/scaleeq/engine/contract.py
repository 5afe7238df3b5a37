"""The contract of the engine port: the names that ScaleEq uses of Detectron2, as data.

Source: Detectron2 0.6's modules; the choice is this project's. At most 40 names, so that standalone/ stays small.
The door (`scaleeq.engine`) imports these names, the conformance suite in tests/engine is generated from this list, and
docs/engine.md shows it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

Side = Literal["detectron2", "standalone"]


@dataclass(frozen=True)
class Name:
    """One name: where Detectron2 keeps it, who calls it here, and the tests that hold both sides together."""

    name: str
    module: str  # of Detectron2, without "detectron2."
    callers: str  # rooms of the package, "tools", or names of the contract that work through it
    scenarios: tuple[str, ...]  # of tests/engine: run through both sides, they must use the name


CONTRACT: tuple[Name, ...] = (
    Name("CfgNode", "config", "data, engine, experiments, names, reports, training", ("config_tree", "config_use")),
    Name("get_cfg", "config", "detection, engine, inference, segmentor, tasks", ("config_tree", "config_use")),
    Name("META_ARCH_REGISTRY", "modeling", "detection, names, segmentor", ("builders",)),
    Name("BACKBONE_REGISTRY", "modeling", "backbones, detection, names", ("builders",)),
    Name("SEM_SEG_HEADS_REGISTRY", "modeling", "detection, names, tasks", ("builders",)),
    Name("Backbone", "modeling", "backbones", ("builders",)),
    Name("ShapeSpec", "layers", "backbones, detection, tasks", ("builders",)),
    Name("build_model", "modeling", "training", ("builders",)),
    Name("build_backbone", "modeling", "detection, segmentor", ("builders",)),
    Name("build_sem_seg_head", "modeling", "segmentor", ("builders",)),
    Name("NaiveSyncBatchNorm", "layers", "backbones, equalization, tasks", ("batch_norm", "batch_norm_floats")),
    Name("DatasetCatalog", "data", "data, evaluation, reports, tasks, training", ("catalogs",)),
    Name("MetadataCatalog", "data", "data, evaluation, reports, training", ("catalogs",)),
    Name("InferenceSampler", "data.samplers", "data", ("inference_sampler",)),
    Name("TrainerBase", "engine", "training", ("training_calls", "training_failures", "hook_states", "whole_training")),
    Name("HookBase", "engine", "training", ("training_calls", "hook_states")),
    Name("IterationTimer", "engine.hooks", "training", ("whole_training",)),
    Name("LRScheduler", "engine.hooks", "training", ("learning_rates",)),
    Name("PeriodicWriter", "engine.hooks", "training", ("whole_training",)),
    Name("PeriodicCheckpointer", "engine.hooks", "training", ("whole_training",)),
    Name("EvalHook", "engine.hooks", "training", ("evaluation_times",)),
    Name("launch", "engine", "engine, tools", ("one_process",)),
    Name("default_argument_parser", "engine", "engine, tools", ("command_line",)),
    Name("default_setup", "engine", "tools, training", ("setup",)),
    Name("default_writers", "engine", "training", ("whole_training",)),
    Name("EventStorage", "utils.events", "TrainerBase", ("storage_values", "printed_lines", "written_files")),
    Name("get_event_storage", "utils.events", "training", ("storage_values",)),
    Name("EventWriter", "utils.events", "training", ("storage_values",)),
    Name("DatasetEvaluator", "evaluation", "evaluation, tasks, training", ("evaluations",)),
    Name("DatasetEvaluators", "evaluation", "training", ("evaluations",)),
    Name("inference_on_dataset", "evaluation", "training", ("evaluations",)),
    Name("print_csv_format", "evaluation", "training", ("results",)),
    Name("verify_results", "evaluation", "training", ("results",)),
    Name("DetectionCheckpointer", "checkpoint", "engine", ("detection_checkpointer",)),
    Name("comm", "utils", "backbones, data, engine, evaluation, reports, tasks, training", ("one_process",)),
    Name("seed_all_rng", "utils.env", "training", ("seeds",)),
    Name("setup_logger", "utils.logger", "commands, training", ("log_files",)),
)


def load_names(side: Side) -> dict[str, object]:
    """Name -> object for every name of the contract, from one side. Raises ImportError naming what is missing."""
    found: dict[str, object] = {}
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
    rows = ["| name | in detectron2 | who calls it | scenarios |", "|---|---|---|---|"]
    for entry in CONTRACT:
        rows.append(f"| {entry.name} | {entry.module} | {entry.callers} | {', '.join(entry.scenarios)} |")
    return "\n".join(rows)
