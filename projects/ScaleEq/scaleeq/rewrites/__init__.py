"""Rewrites of a model that keep its outputs: a model in, the model out, and the plain one as the oracle."""

from .accelerate import accelerate, acceleration_report, plain
from .report import AccelerationReport, FoundFusion

__all__ = ["AccelerationReport", "FoundFusion", "accelerate", "acceleration_report", "plain"]
