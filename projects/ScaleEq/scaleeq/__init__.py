"""ScaleEq: compare and train multi-level feature fusion for semantic segmentation.

    from scaleeq import Fusion, ScaleEqualizer, calibrate, fold_equalizers, equalize

needs torch alone: no engine is imported and no config is read.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

__all__ = [
    "EqualizerSpec",
    "Fusion",
    "ScaleEqualizer",
    "calibrate",
    "equalize",
    "equalize_fusions",
    "fold_equalizers",
]

_HOMES = {
    "EqualizerSpec": "scaleeq.equalization",
    "Fusion": "scaleeq.fusion",
    "ScaleEqualizer": "scaleeq.equalization",
    "calibrate": "scaleeq.equalization.calibration",
    "equalize": "scaleeq.equalization.foreign",
    "equalize_fusions": "scaleeq.equalization",
    "fold_equalizers": "scaleeq.equalization.folding",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import scaleeq` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'scaleeq' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
