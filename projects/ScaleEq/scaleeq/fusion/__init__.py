"""The one expression that every decoder is made of: fused = mix(combine(equalize(transfer(lateral(x)))))."""

from .aligned import Aligned
from .branch import Branch, Observation
from .combine import COMBINES, Concat, FastNormalizedSum, SoftmaxSum, Sum, WeightedSum, make_combine
from .evaluate import EVALUATIONS
from .fusion import Equalizers, Fusion, evaluate_fusions
from .laterals import LATERALS, make_lateral
from .ports import Transfer
from .transfers import DOWN_TRANSFERS, TRANSFERS, Gated, Keep, Pool, Progressive, Resize, make_transfer

__all__ = [
    "COMBINES",
    "DOWN_TRANSFERS",
    "EVALUATIONS",
    "LATERALS",
    "TRANSFERS",
    "Aligned",
    "Branch",
    "Concat",
    "Equalizers",
    "FastNormalizedSum",
    "Fusion",
    "Gated",
    "Keep",
    "Observation",
    "Pool",
    "Progressive",
    "Resize",
    "SoftmaxSum",
    "Sum",
    "Transfer",
    "WeightedSum",
    "evaluate_fusions",
    "make_combine",
    "make_lateral",
    "make_transfer",
]
