"""Evaluation: the confusion matrix (pure) and the evaluators that count with it."""

from scaleeq.evaluation.confusion import ConfusionMatrix, Metrics, metrics_from_counts
from scaleeq.evaluation.sem_seg import SemSegEvaluator
from scaleeq.evaluation.validation_loss import ValidationLossEvaluator

__all__ = ["ConfusionMatrix", "Metrics", "SemSegEvaluator", "ValidationLossEvaluator", "metrics_from_counts"]
