"""The one expression that every decoder is made of: fused = mix(combine(equalize(transfer(lateral(x)))))."""

from .aligned import Aligned
from .combine import COMBINES, Concat, FastNormalizedSum, SoftmaxSum, Sum, WeightedSum, make_combine
from .conv_fusion import ConvFusion, exchange_module
from .equalizer import ScaleEqualizer
from .equalizer_spec import EqualizerSpec
from .fusion import Branch, Fusion, Observation
from .initializer import scale_optimizer_steps
from .laterals import LATERALS, Select, make_lateral
from .pooling import atrous_pooling, pyramid_pooling
from .transfers import DOWN_TRANSFERS, TRANSFERS, Deconv, Gated, Keep, Pool, Progressive, Resize, make_transfer

__all__ = [
    "COMBINES",
    "DOWN_TRANSFERS",
    "LATERALS",
    "TRANSFERS",
    "Aligned",
    "Branch",
    "Concat",
    "ConvFusion",
    "Deconv",
    "EqualizerSpec",
    "FastNormalizedSum",
    "Fusion",
    "Gated",
    "Keep",
    "Observation",
    "Pool",
    "Progressive",
    "Resize",
    "ScaleEqualizer",
    "Select",
    "SoftmaxSum",
    "Sum",
    "WeightedSum",
    "atrous_pooling",
    "exchange_module",
    "make_combine",
    "make_lateral",
    "make_transfer",
    "pyramid_pooling",
    "scale_optimizer_steps",
]
