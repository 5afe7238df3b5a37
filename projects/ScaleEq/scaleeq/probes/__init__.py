"""Probes look at a model and change nothing: scales of branches, maps, parameters and multiply-adds.

Each is a block, `with probe(model) as record`: Recorder, capture_maps, capture_fusions, counting. measure_scales and
count run the model in such a block.
"""

from .analysis import measure_scales
from .counting import Count, count, counting
from .maps import FusionMaps, capture_fusions, capture_maps
from .scales import Recorder

__all__ = ["Count", "FusionMaps", "Recorder", "capture_fusions", "capture_maps", "count", "counting", "measure_scales"]
