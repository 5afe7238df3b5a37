"""Statistics of the branches of every Fusion: calibration of scale equalizers, folding, and records during training.

The trainer's hooks are in .hooks: they alone need an engine.
"""

from .calibration import CalibrationReport, calibrate, fusions_of, require_calibrated
from .folding import fold_equalizers
from .maps import FusionMaps, capture_fusions, capture_maps
from .moments import BranchMoments

__all__ = [
    "BranchMoments",
    "CalibrationReport",
    "FusionMaps",
    "calibrate",
    "capture_fusions",
    "capture_maps",
    "fold_equalizers",
    "fusions_of",
    "require_calibrated",
]
