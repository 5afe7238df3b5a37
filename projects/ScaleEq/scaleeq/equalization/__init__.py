"""Scale equalizers (arXiv 2402.01149): what they are, and how they are attached to the Fusions of a built model.

`attach` puts them in, `calibration` measures the branches, `folding` takes them into the weights; `foreign` does all
three for any PyTorch model.
"""

from .attach import equalize_as_configured, equalize_fusions
from .calibration import CalibrationReport, calibrate, fusions_of, require_calibrated
from .equalizer import BranchStatistics, ScaleEqualizer
from .folding import fold_equalizers
from .foreign_conv import ConvFusion, exchange_module
from .implementations import Attached
from .misfits import other_equalizers
from .moments import BranchMoments
from .optimizer_steps import scale_optimizer_steps
from .spec import EqualizerSpec

__all__ = [
    "Attached",
    "BranchMoments",
    "BranchStatistics",
    "CalibrationReport",
    "ConvFusion",
    "EqualizerSpec",
    "ScaleEqualizer",
    "calibrate",
    "equalize_as_configured",
    "equalize_fusions",
    "exchange_module",
    "fold_equalizers",
    "fusions_of",
    "other_equalizers",
    "require_calibrated",
    "scale_optimizer_steps",
]
