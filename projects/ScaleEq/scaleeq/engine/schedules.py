"""engine_lr_scheduler: the learning-rate schedules that only the engine has."""

from __future__ import annotations

from typing import Any

import torch


def engine_lr_scheduler(cfg: Any, optimizer: torch.optim.Optimizer) -> Any:
    """What Detectron2 builds for SOLVER.LR_SCHEDULER_NAME; None: the standalone side has no schedules.

    ValueError: Detectron2 does not know the name.
    """
    from . import NAME

    if NAME != "detectron2":
        return None
    from detectron2.solver import build_lr_scheduler

    return build_lr_scheduler(cfg, optimizer)
