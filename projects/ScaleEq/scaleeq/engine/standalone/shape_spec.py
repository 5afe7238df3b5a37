"""What a module may know about a feature map before it sees one.

Source: Detectron2's layers/shape_spec.py. Deviations: none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class ShapeSpec:
    """Channels, height and width in pixels, and stride (image pixels per pixel of the map); None: not known."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None
