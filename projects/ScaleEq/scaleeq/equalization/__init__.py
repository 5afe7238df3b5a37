"""Scale equalizers: measuring branches, calibrating, folding; for our own Fusions and for any PyTorch model."""

from .calibration import CalibrationReport, calibrate, fusions_of, require_calibrated
from .folding import fold_equalizers
from .moments import BranchMoments

__all__ = [
    "BranchMoments",
    "CalibrationReport",
    "calibrate",
    "fold_equalizers",
    "fusions_of",
    "require_calibrated",
]
