"""engine_lr_scheduler: the learning-rate schedules that only the engine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:
    from . import CfgNode


def engine_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
    """What Detectron2 builds for SOLVER.LR_SCHEDULER_NAME; None: the standalone side has no schedules.

    ValueError: Detectron2 does not know the name.
    """
    from . import NAME

    if NAME != "detectron2":
        return None
    from detectron2.solver import build_lr_scheduler

    return build_lr_scheduler(cfg, optimizer)
