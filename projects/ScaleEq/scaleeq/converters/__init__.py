"""The weights of other people's checkpoints under our names: a file for each layout."""

from .detectors import convert_detector, stock_state_dict
from .detectron2 import convert_semantic_fpn_head
from .fapn import convert_fapn_weights
from .mmsegmentation import convert_mmseg_head
from .smp import convert_smp_upernet
from .transformers import convert_upernet_head

__all__ = [
    "convert_detector",
    "convert_fapn_weights",
    "convert_mmseg_head",
    "convert_semantic_fpn_head",
    "convert_smp_upernet",
    "convert_upernet_head",
    "stock_state_dict",
]
