"""The one expression that every decoder is made of: fused = mix(combine(equalize(transfer(lateral(x)))))."""

from .combine import COMBINES, Concat, Sum, WeightedSum, make_combine
from .equalizer import EqualizerSpec, ScaleEqualizer
from .fusion import Branch, Fusion, Observation
from .pooling import pyramid_pooling
from .transfers import TRANSFERS, Keep, Resize, make_transfer

__all__ = [
    "COMBINES",
    "TRANSFERS",
    "Branch",
    "Concat",
    "EqualizerSpec",
    "Fusion",
    "Keep",
    "Observation",
    "Resize",
    "ScaleEqualizer",
    "Sum",
    "WeightedSum",
    "make_combine",
    "make_transfer",
    "pyramid_pooling",
]
