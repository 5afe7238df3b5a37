"""ScaleEq: compare and train multi-level feature fusion for semantic segmentation.

    from scaleeq import Fusion, ScaleEqualizer, accelerate, calibrate, create_model, fold_equalizers, equalize

needs torch alone: no engine is imported and no config is read. `get_config` reads one; `add_scaleeq_config` makes
ScaleEq a project inside Detectron2 (docs/engine.md). Importing the package itself imports nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaleeq.create import create_model as create_model
    from scaleeq.engine import CfgNode
    from scaleeq.equalization import EqualizerSpec as EqualizerSpec
    from scaleeq.equalization import ScaleEqualizer as ScaleEqualizer
    from scaleeq.equalization import equalize_fusions as equalize_fusions
    from scaleeq.equalization.calibration import calibrate as calibrate
    from scaleeq.equalization.folding import fold_equalizers as fold_equalizers
    from scaleeq.equalization.foreign import equalize as equalize
    from scaleeq.fusion import Fusion as Fusion
    from scaleeq.rewrites import accelerate as accelerate
    from scaleeq.rewrites import plain as plain
    from scaleeq.rewrites.export import export as export
    from scaleeq.zoo import list_models as list_models
    from scaleeq.zoo import load_model as load_model

__version__ = "0.1.0"

__all__ = [
    "EqualizerSpec",
    "Fusion",
    "ScaleEqualizer",
    "accelerate",
    "add_scaleeq_config",
    "calibrate",
    "create_model",
    "equalize",
    "equalize_fusions",
    "export",
    "fold_equalizers",
    "get_config",
    "plain",
    "list_models",
    "load_model",
]

_HOMES = {
    "EqualizerSpec": "scaleeq.equalization",
    "Fusion": "scaleeq.fusion",
    "ScaleEqualizer": "scaleeq.equalization",
    "accelerate": "scaleeq.rewrites",
    "calibrate": "scaleeq.equalization.calibration",
    "create_model": "scaleeq.create",
    "equalize": "scaleeq.equalization.foreign",
    "equalize_fusions": "scaleeq.equalization",
    "export": "scaleeq.rewrites.export",
    "fold_equalizers": "scaleeq.equalization.folding",
    "plain": "scaleeq.rewrites",
    "list_models": "scaleeq.zoo",
    "load_model": "scaleeq.zoo",
}


def get_config(name: str, overrides: Sequence[object] = ()) -> CfgNode:
    """The config that a name such as "ade20k/uper_swin_tiny+scale_equalizer", or a file's path, stands for.

    overrides: KEY, VALUE, KEY, VALUE, ..., each value as text or of the right type.

    FileNotFoundError: there is no such name or file; KeyError, ValueError: a key or a value is wrong.
    """
    from scaleeq.engine import load_config

    return load_config(name, overrides)


def add_scaleeq_config(cfg: CfgNode) -> None:
    """Make a config of Detectron2's ready for ScaleEq: add its keys, and register its models and data sets.

    cfg: as detectron2.config.get_cfg makes it; changed in place. Nothing is registered, and no engine loaded, before.
    """
    from importlib import import_module

    from scaleeq.config import add_scaleeq_config as add_keys

    add_keys(cfg)
    for registers in ("scaleeq.segmentor", "scaleeq.data"):
        import_module(registers)


if not TYPE_CHECKING:  # a type checker would take it for permission to import any name

    def __getattr__(name: str) -> object:
        """Import the public names on first use, so that `import scaleeq` stays light."""
        if name not in _HOMES:
            raise AttributeError(f"module 'scaleeq' has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
