"""Everything that can be known to be wrong with a run before its first log line, and before its folder is touched.

The checks are those of the run itself, which makes them again; the model is built on the meta device, where it has
shapes and no numbers, so that its refusals, the optimizer's and those of a file of weights come before hundreds of
lines of log too, and once for all processes of a job. No random number of the run is drawn: it is seeded afterwards.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from scaleeq.config.check import OUR_ARCHITECTURES
from scaleeq.console import quiet
from scaleeq.engine import CfgNode, SafeCheckpointer
from scaleeq.equalization import other_equalizers

from .evaluate import evaluated_file
from .norms import refuse_single_values
from .on_meta import build_on_meta
from .output_dir import check_output_dir
from .pcgrad import refuse_processes
from .recipe import Recipe
from .setup import check_before_evaluation, choose_device
from .solver import build_gradient_clipper
from .step import autocast_dtype, micro_batch_size


def rehearse(
    cfg: CfgNode,
    recipe: type[Recipe] = Recipe,
    *,
    resume: bool = False,
    eval_only: bool = False,
    num_processes: int = 1,
) -> None:
    """Refuse a run that would fail, without a word and without a file.

    num_processes: of the job that will be started.

    ValueError, KeyError, FileNotFoundError, OSError, ImportError: what is wrong, and the way out.
    """
    cfg = cfg.clone()
    with quiet():
        # Config and data.
        choose_device(cfg)
        if eval_only:
            check_before_evaluation(cfg)
            recipe.check_evaluators(cfg)
        else:
            recipe.check(cfg)
            micro_batch_size(cfg, num_processes)
            refuse_processes(cfg, num_processes)
            autocast_dtype(cfg)
            build_gradient_clipper(cfg)
        # Folder.
        _check_folder(Path(cfg.OUTPUT_DIR))
        check_output_dir(cfg, resume=resume, eval_only=eval_only)
        # Model.
        model = _check_model(cfg, recipe, resume=resume, eval_only=eval_only)
        # Norms of several processes may count all of them, and loaded equalizers are not measured.
        if model is not None and not (eval_only or resume or cfg.MODEL.WEIGHTS) and num_processes == 1:
            refuse_single_values(model, micro_batch=micro_batch_size(cfg, 1))


def _check_folder(folder: Path) -> None:
    """OSError: no folder can be made there, or nothing written into it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"OUTPUT_DIR is {folder}, but {existing} is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            f"OUTPUT_DIR is {folder}, but nothing may be written into {existing}; choose another folder"
        )


def check_model(cfg: CfgNode, recipe: type[Recipe] = Recipe) -> nn.Module | None:
    """The model on the meta device, after its refusals; None where it is another's, which need not be built there."""
    file = cfg.MODEL.TIMM.PRETRAINED_FILE
    if file and not os.path.isfile(file):
        raise FileNotFoundError(f"MODEL.TIMM.PRETRAINED_FILE: there is no file {file!r}")
    is_ours = cfg.MODEL.META_ARCHITECTURE in OUR_ARCHITECTURES and not recipe.overrides("build_model")
    return build_on_meta(cfg) if is_ours else None


def check_weights(model: nn.Module, path: str, *, key: str = "MODEL.WEIGHTS", strict: bool = True) -> None:
    """Refuse a file of weights that does not fit; a URL is fetched when the run needs it."""
    if not path or "://" in path:
        return
    try:
        SafeCheckpointer(model, other_model=other_equalizers).load_weights(path, strict=strict)
    except (FileNotFoundError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else FileNotFoundError
        raise kind(f"{key}: {error}") from error


def _check_model(cfg: CfgNode, recipe: type[Recipe], *, resume: bool, eval_only: bool) -> nn.Module | None:
    """The model on the meta device, after the refusals of it, its optimizer and the file that its weights come from."""
    model = check_model(cfg, recipe)
    if model is None:
        return None
    # The optimizer's refusals.
    if not eval_only:
        recipe.build_lr_scheduler(cfg, recipe.build_optimizer(cfg, model))
    # Those of the weights.
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR)
    if eval_only:
        path = evaluated_file(cfg, checkpointer, resume=resume)
        check_weights(model, path, key="MODEL.WEIGHTS" if path == cfg.MODEL.WEIGHTS else "OUTPUT_DIR")
    elif not (resume and checkpointer.has_checkpoint()):  # the run compares that one, and falls back on an older one
        check_weights(model, cfg.MODEL.WEIGHTS, strict=cfg.MODEL.WEIGHTS_STRICT)
    return model
