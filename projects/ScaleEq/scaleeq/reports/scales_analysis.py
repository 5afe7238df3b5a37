"""The report of `scaleeq analyze`: a config's model as it is, and what equalizing would do to it.

Nothing is trained and nothing is kept: the equalized model is a copy with the same weights, calibrated on the batches
that are measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from torch import nn

import scaleeq
from scaleeq.engine import CfgNode, SafeCheckpointer, comm
from scaleeq.equalization import other_equalizers
from scaleeq.equalization.attach import configured_spec
from scaleeq.equalization.calibration import calibrate, fusions_of, is_calibrated
from scaleeq.probes.analysis import measure_scales
from scaleeq.probes.scales import Record
from scaleeq.records import Json
from scaleeq.tasks.weighting import collected_task_losses
from scaleeq.training.batches import Batch
from scaleeq.training.hooks import FirstBatches
from scaleeq.training.recipe import Recipe
from scaleeq.training.step import micro_batch_size, seed_iteration

from .scales_verdict import facts_of, pull, verdict

logger = logging.getLogger(__name__)
Batches = list[Batch]


def analyze_scales(cfg: CfgNode, *, weights: str = "", num_batches: int = 2, loader: Iterable | None = None) -> dict:
    """Measure every Fusion of a config's model on `num_batches` training batches; the content of scales.json.

    The batches are those of a training step, cut into what one forward pass sees (SOLVER.ACCUMULATE).

    Args:
        weights: a checkpoint; empty: those of MODEL.WEIGHTS, or initial ones.
        loader: instead of DATASETS.TRAIN's: batches of samples with "image" and "sem_seg".

    ValueError: no batch; a model without Fusions.
    """
    if num_batches < 1:
        raise ValueError(f"--batches is {num_batches}; at least one is needed")
    if loader is None:
        loader, micro_batch = Recipe.build_train_loader(cfg), micro_batch_size(cfg, comm.get_world_size())
        batches: Batches = list(FirstBatches(loader, num_batches, micro_batch=micro_batch))
    else:
        batches = list(islice(loader, num_batches))
    if not batches:
        raise ValueError("the training loader gave no batch to measure")
    # The model as it is.
    equalizes = cfg.MODEL.SCALE_EQUALIZER.ENABLED
    model = _model(cfg, weights or cfg.MODEL.WEIGHTS)
    fusions = fusions_of(model, equalized=False)
    if not fusions:
        raise ValueError(f"{cfg.MODEL.META_ARCHITECTURE} has no Fusion, so there is no scale to analyze")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if not all(map(is_calibrated, fusions.values())):
        calibrate(model, batches, num_images=-1)
    logger.info("measuring %d fusions on %d batches of %d", len(fusions), len(batches), len(batches[0]))
    several = collected_task_losses if len(getattr(model, "tasks", ())) > 1 else None
    record = measure_scales(model, batches, optimizer=Recipe.build_optimizer(cfg, model), tasks=several)
    # And with equalizers, from the same weights.
    equalized, refused = (record, "") if equalizes else _equalized_record(cfg, state, batches)
    content: Json = {"about": _about(cfg, weights, batches, refused), "fusions": {}}
    balanced = not refused and configured_spec(cfg).balances_gradients
    # Words for each fusion.
    for name in record:
        facts = facts_of(name, fusions[name], model)
        after = equalized.get(name)
        if after is not None and "spread_equalized" not in after:
            after = None  # this fusion is outside of the config's SCOPE
        effect, text = verdict(facts, record[name], after, **({"not_equalized": refused} if refused else {}))
        content["fusions"][name] = {
            "title": facts.title,
            "verdict": text,
            "pull": pull(record[name], balanced=balanced),
            "effect": effect,
            "widths": facts.widths,
            "transfers": facts.transfers,
            "raw": record[name],
            "equalized": after,
        }
    return content


def _model(cfg: CfgNode, weights: str) -> nn.Module:
    seed_iteration(max(cfg.SEED, 0), rank=0, iteration=0)
    model = Recipe.build_model(cfg)
    if weights:
        SafeCheckpointer(model, other_model=other_equalizers).load_weights(weights)
    return model


def _equalized_record(cfg: CfgNode, state: dict[str, torch.Tensor], batches: Batches) -> tuple[Record, str]:
    """The record of a copy with equalizers, and why there is none."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.SCALE_EQUALIZER.ENABLED = True
    try:
        copy = Recipe.build_model(cfg)
    except ValueError as error:
        logger.info("no equalized copy: %s", error)
        return {}, str(error)
    found = copy.load_state_dict(state, strict=False)
    strangers = [name for name in found.missing_keys if ".equalizers." not in name] + found.unexpected_keys
    assert not strangers, strangers  # an equalizer adds no weight, and takes none away
    calibrate(copy, batches, num_images=-1)
    return measure_scales(copy, batches), ""


def _about(cfg: CfgNode, weights: str, batches: Batches, refused: str) -> dict[str, object]:
    keys = cfg.MODEL.SCALE_EQUALIZER
    sizes = {tuple(sample["image"].shape[-2:]) for batch in batches for sample in batch}
    backbone = cfg.MODEL.TIMM.NAME if cfg.MODEL.BACKBONE.NAME == "build_timm_backbone" else cfg.MODEL.BACKBONE.NAME
    return {
        "model": f"{cfg.MODEL.SEM_SEG_HEAD.NAME} on {backbone}",
        "weights": weights or cfg.MODEL.WEIGHTS or ("pretrained backbone" if cfg.MODEL.TIMM.PRETRAINED else "initial"),
        "datasets": list(cfg.DATASETS.TRAIN),
        "batches": len(batches),
        "batch": len(batches[0]),
        "sizes": sorted(map(list, sizes)),
        "equalizer": {key: keys[key] for key in ("ENABLED", "SCOPE", "IMPLEMENTATION", "GRANULARITY", "STATISTIC")},
        "not_equalized_because": refused,
        "optimizer": f"{cfg.SOLVER.OPTIMIZER} at {cfg.SOLVER.BASE_LR:g}",
        "versions": {"scaleeq": scaleeq.__version__, "torch": torch.__version__, "numpy": np.__version__},
    }
