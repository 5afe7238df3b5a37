"""Probes look at a model and change nothing: scales of branches, maps, parameters and multiply-adds."""

from .maps import FusionMaps, capture_fusions, capture_maps

__all__ = ["FusionMaps", "capture_fusions", "capture_maps"]
