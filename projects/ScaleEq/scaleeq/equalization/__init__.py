"""Scale equalizers (arXiv 2402.01149): what they are, and how they are attached to the Fusions of a built model.

`attach` puts them in, `calibration` measures the branches, `folding` takes them into the weights; `foreign` does all
three for any PyTorch model.
"""

from .attach import equalize_as_configured, equalize_fusions
from .calibration import calibrate
from .equalizer import ScaleEqualizer
from .folding import fold_equalizers
from .foreign_conv import ConvFusion
from .misfits import other_equalizers
from .optimizer_steps import scale_optimizer_steps
from .spec import EqualizerSpec

__all__ = [
    "ConvFusion",
    "EqualizerSpec",
    "ScaleEqualizer",
    "calibrate",
    "equalize_as_configured",
    "equalize_fusions",
    "fold_equalizers",
    "other_equalizers",
    "scale_optimizer_steps",
]
