"""Training and evaluation: what `scaleeq train` calls. `Trainer` is the class to subclass."""

from __future__ import annotations

from .evaluate import build_evaluator, evaluate_only
from .output_dir import RunLock, check_disk_space, check_output_dir, evaluation_config, log_changes
from .rehearsal import check_model, check_weights, rehearse
from .setup import check_before_training, check_labels, choose_algorithms, choose_device, limit_threads, log_engine
from .solver import build_gradient_clipper, build_lr_scheduler, build_optimizer
from .trainer import Trainer

__all__ = [
    "RunLock",
    "Trainer",
    "build_evaluator",
    "build_gradient_clipper",
    "build_lr_scheduler",
    "build_optimizer",
    "check_before_training",
    "check_disk_space",
    "check_labels",
    "check_model",
    "check_output_dir",
    "check_weights",
    "choose_algorithms",
    "choose_device",
    "evaluate_only",
    "evaluation_config",
    "limit_threads",
    "log_changes",
    "log_engine",
    "rehearse",
]
