"""Pyramids as backbones of detectors, and what a detector needs for equalizers: calibration and records.

Detectors themselves are Detectron2's, or torchvision's; registered.py has the names that a config chooses by.
"""

from .backbone import PyramidBackbone
from .calibration import MeasuredPart, detection_calibration_inputs, measured_part

__all__ = ["MeasuredPart", "PyramidBackbone", "detection_calibration_inputs", "measured_part"]
