"""Evaluation: the confusion matrix (pure), the evaluators that count with it, and scores of stored predictions."""

from .confusion import ABSENT_POLICIES, ConfusionMatrix, metrics_from_counts
from .families import dataset_parts
from .predictions import Reader, score_predictions
from .sem_seg import SemSegEvaluator
from .validation_loss import ValidationLossEvaluator

__all__ = [
    "ABSENT_POLICIES",
    "ConfusionMatrix",
    "Reader",
    "SemSegEvaluator",
    "ValidationLossEvaluator",
    "dataset_parts",
    "metrics_from_counts",
    "score_predictions",
]
