"""Pyramids as backbones of detectors, and what a detector needs for equalizers: calibration and records.

Detectors themselves are Detectron2's, or torchvision's; registered.py has the names that a config chooses by.
"""

from .backbone import PyramidBackbone

__all__ = ["PyramidBackbone"]
