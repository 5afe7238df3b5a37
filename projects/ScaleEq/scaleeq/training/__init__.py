"""Training and evaluation. `Trainer` is the class to subclass, `Recipe` what it takes its parts from."""

from __future__ import annotations

from .evaluate import evaluate_only
from .evaluators import build_evaluator
from .prepare import check_run, prepare_run
from .recipe import Recipe
from .setup import choose_device
from .solver import build_lr_scheduler
from .trainer import Trainer

__all__ = [
    "Recipe",
    "Trainer",
    "build_evaluator",
    "build_lr_scheduler",
    "check_run",
    "choose_device",
    "evaluate_only",
    "prepare_run",
]
