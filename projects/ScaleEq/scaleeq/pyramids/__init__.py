"""Pyramids: graphs of Fusions over named levels."""

from .fpn import FPN

__all__ = ["FPN"]
