"""Scale equalizers (arXiv 2402.01149): what they are, and how they are attached to the Fusions of a built model."""

from .attach import equalize_as_configured, equalize_fusions
from .equalizer import BranchStatistics, ScaleEqualizer
from .foreign_conv import ConvFusion, exchange_module
from .implementations import Attached
from .optimizer_steps import scale_optimizer_steps
from .spec import EqualizerSpec

__all__ = [
    "Attached",
    "BranchStatistics",
    "ConvFusion",
    "EqualizerSpec",
    "ScaleEqualizer",
    "equalize_as_configured",
    "equalize_fusions",
    "exchange_module",
    "scale_optimizer_steps",
]
