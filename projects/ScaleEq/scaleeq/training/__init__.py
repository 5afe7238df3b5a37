"""Training and evaluation: what tools/train_net.py calls. `Trainer` is the class to subclass."""

from __future__ import annotations

from .evaluate import evaluate_only
from .setup import check_labels, choose_device, limit_threads, log_engine
from .solver import build_gradient_clipper, build_lr_scheduler, build_optimizer
from .trainer import Trainer

__all__ = [
    "Trainer",
    "build_gradient_clipper",
    "build_lr_scheduler",
    "build_optimizer",
    "check_labels",
    "choose_device",
    "evaluate_only",
    "limit_threads",
    "log_engine",
]
