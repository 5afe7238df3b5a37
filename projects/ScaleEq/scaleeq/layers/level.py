"""The shape of a map that one room hands to another."""

from __future__ import annotations

from typing import NamedTuple


class Level(NamedTuple):
    """One level of a backbone, or the map of a decoder: channels, and stride in pixels of the image."""

    channels: int
    stride: int
