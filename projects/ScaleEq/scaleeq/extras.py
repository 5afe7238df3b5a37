"""Packages that only some commands need: each comes with an extra of the installation, which a missing one is told by.

`pip install "scaleeq[reports]"` installs the extra `reports`. Needs the standard library alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

# Top-level module -> the extra of setup.py that installs it.
EXTRA_OF = {
    "matplotlib": "reports",
    "jinja2": "reports",
    "tensorboard": "tensorboard",
    "pycocotools": "detection",
    "h5py": "data",
    "wandb": "wandb",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "gradio": "demo",
    "transformers": "models",
    "segmentation_models_pytorch": "models",
    "ray": "cluster",
    "submitit": "cluster",
}


def require(module: str, *, why: str = "") -> ModuleType:
    """Import a module. ImportError, in words: its package is not installed.

    why: what it is needed for, as the beginning of a sentence.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not (told := missing(error)):
            raise
        raise ImportError(f"{why}{told}") from error


def missing(error: ImportError) -> str:
    """Which extra installs what an import did not find; empty for a module of no extra."""
    package = (error.name or "").partition(".")[0]
    return how_to_get(package) if package in EXTRA_OF else ""


def how_to_get(package: str) -> str:
    """One of the packages above is not there: how to install it."""
    return f"{package} is not installed: pip install 'scaleeq[{EXTRA_OF[package]}]' (or {package})"


def installed(package: str) -> bool:
    """Whether a package can be imported, without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None
