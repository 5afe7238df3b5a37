"""Evaluation: the confusion matrix (pure), the evaluators that count with it, and scores of stored predictions."""

from scaleeq.evaluation.confusion import ABSENT_POLICIES, ConfusionMatrix, Metrics, metrics_from_counts
from scaleeq.evaluation.families import dataset_parts
from scaleeq.evaluation.predictions import Reader, score_predictions
from scaleeq.evaluation.sem_seg import SemSegEvaluator
from scaleeq.evaluation.validation_loss import ValidationLossEvaluator

__all__ = [
    "ABSENT_POLICIES",
    "ConfusionMatrix",
    "Metrics",
    "Reader",
    "SemSegEvaluator",
    "ValidationLossEvaluator",
    "dataset_parts",
    "metrics_from_counts",
    "score_predictions",
]
