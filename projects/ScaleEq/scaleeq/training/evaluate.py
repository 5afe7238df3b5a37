"""Evaluation of given weights, with a record of what was evaluated: OUTPUT_DIR/inference/results.json.

The file holds the result dict itself ({"sem_seg": {...}}, in percent, null where a metric is undefined) and beside it
what the number depends on: the policy for absent classes, engine, weights ("ema" is their average over training,
"trained" what the optimizer left) and their hash, seconds an image, parameters and multiply-adds.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from torch import nn

from scaleeq import engine
from scaleeq.engine import CfgNode, SafeCheckpointer, comm
from scaleeq.equalization import other_equalizers
from scaleeq.files import write_json
from scaleeq.probes.counting import count
from scaleeq.stopping import stop_signals

from .expected import require_expected
from .lighten import lighten
from .multi_task import describe
from .recipe import Recipe
from .setup import check_before_evaluation, compile_parts
from .testing import Evaluation, InferenceClock, Results, build_predictor, run_test

logger = logging.getLogger(__name__)


def evaluate_only(cfg: CfgNode, recipe: type[Recipe] = Recipe, *, resume: bool = False) -> Results:
    """Load weights, evaluate on DATASETS.TEST, write results.json; returns the results (empty off the main process).

    resume: take OUTPUT_DIR's last checkpoint where there is one, as training does; else MODEL.WEIGHTS.

    ValueError: there are no weights to load. SystemExit: TEST.EXPECTED_RESULTS are not met. Stopped: by a signal.
    """
    # Refuse.
    check_before_evaluation(cfg)
    recipe.check_evaluators(cfg)
    # Load.
    model = recipe.build_model(cfg)
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, other_model=other_equalizers)
    file = evaluated_file(cfg, checkpointer, resume=resume)
    kind = checkpointer.load_weights(file)
    logger.info("Evaluating the %s weights of %s", kind, file)
    # Of the weights as they are in the file.
    weights = {"weights": str(file), "weights_kind": kind, "weights_sha256": hash_weights(model.state_dict())}
    size = describe_model(cfg, recipe, model) if comm.is_main_process() else {}
    lighten(cfg, model)
    compile_parts(model, enabled=cfg.MODEL.COMPILE)
    path = Path(cfg.OUTPUT_DIR) / "inference" / "results.json"
    if comm.is_main_process():
        path.unlink(missing_ok=True)  # of an earlier evaluation: it would stay beside this one's files after a kill

    # Evaluate.
    clock = InferenceClock()
    with stop_signals(at_once=False), clock.watching(model):  # between two images nothing is lost
        results = run_test(recipe.test, cfg, model, Evaluation(cfg, clock=clock))
    # Write.
    num_images = sum(comm.all_gather(clock.num_images))
    if comm.is_main_process():
        write_json(path, {**results, **describe_run(cfg, clock, num_images=num_images), **size, **weights})
        logger.info("Results written to %s", path)
        require_expected(cfg, results)
    return results


def describe_model(cfg: CfgNode, recipe: type[Recipe], model: nn.Module) -> dict[str, object]:
    """What the model costs."""
    first = next(iter(recipe.build_test_loader(cfg, cfg.DATASETS.TEST[0])))[:1]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": count(model, first, call=build_predictor(cfg, model)).macs,
    }


def describe_run(cfg: CfgNode, clock: InferenceClock, *, num_images: int) -> dict[str, object]:
    """What the results depend on. num_images: of all processes; clock: of this one."""
    return {
        "datasets": list(cfg.DATASETS.TEST),
        "num_images": num_images,
        "absent_classes": cfg.TEST.ABSENT_CLASSES,
        "seconds_per_image": clock.seconds / max(clock.num_images, 1),
        "device": cfg.MODEL.DEVICE,
        "engine": engine.NAME,
        **describe(cfg),
    }


def evaluated_file(cfg: CfgNode, checkpointer: SafeCheckpointer, *, resume: bool) -> str:
    """The checkpoint that is evaluated: OUTPUT_DIR's last one, where `resume` asks for it and there is one, or
    MODEL.WEIGHTS.

    ValueError: there is neither.
    """
    if resume and checkpointer.has_checkpoint():
        return checkpointer.get_checkpoint_file()
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "refusing to score a model without weights: MODEL.WEIGHTS is empty and there is no checkpoint to resume. "
            "Add MODEL.WEIGHTS path/to/model_final.pth, or --resume with OUTPUT_DIR set to a training run "
            f"(now {cfg.OUTPUT_DIR})"
        )
    return cfg.MODEL.WEIGHTS


def hash_weights(state_dict: dict[str, torch.Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of every tensor, in the order of names; independent of the file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
