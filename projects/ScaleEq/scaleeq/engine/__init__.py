"""The only door to the training engine: Detectron2 where it is installed, a small standalone implementation where not.

Source: this project's design (docs/engine.md). The choice is made at the first use of a name, once, and logged:
SCALEEQ_ENGINE=auto (default), detectron2 or standalone. A forced choice never falls back, and a Detectron2 that is
installed but does not import is an error, never a reason to go on without it.

Here are the names of `contract.CONTRACT`, and ours above both engines: load_config, SafeCheckpointer, write_checkpoint,
wrap_ddp, leave_job, largest_over_ranks, run_job, register_path_handler, engine_lr_scheduler. NAME is the engine chosen,
VERSION its version (standalone: the Detectron2 that it reproduces), FEATURES what it can do. Outside this package ask
FEATURES, not NAME. Importing `scaleeq.engine.standalone` directly chooses nothing.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .contract import CONTRACT, Side, load_names

if TYPE_CHECKING:
    from .checkpoint_file import write_checkpoint as write_checkpoint
    from .checkpointer import SafeCheckpointer as SafeCheckpointer
    from .config_io import load_config as load_config
    from .job import run_job as run_job
    from .parallel import largest_over_ranks as largest_over_ranks
    from .parallel import leave_job as leave_job
    from .parallel import wrap_ddp as wrap_ddp
    from .paths import register_path_handler as register_path_handler
    from .schedules import engine_lr_scheduler as engine_lr_scheduler
    from .standalone import *  # noqa: F403

    NAME: Side
    VERSION: str
    FEATURES: Features

CHOICES = ("auto", "detectron2", "standalone")
INSTALL_PAGE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"

_OURS = {
    "load_config": "config_io",
    "SafeCheckpointer": "checkpointer",
    "write_checkpoint": "checkpoint_file",
    "wrap_ddp": "parallel",
    "leave_job": "parallel",
    "largest_over_ranks": "parallel",
    "run_job": "job",
    "register_path_handler": "paths",
    "engine_lr_scheduler": "schedules",
}
_CHOSEN = ("NAME", "VERSION", "FEATURES")


@dataclass(frozen=True)
class Features:
    """What an engine can do beyond the contract."""

    detection: bool  # boxes, instance masks and panoptic models of Detectron2


def choose_engine(setting: str) -> Side:
    """The engine for a value of SCALEEQ_ENGINE, and proof that it imports.

    Raises ValueError for an unknown value, ImportError where Detectron2 is forced but absent, or installed but broken.
    """
    if _known(setting) == "standalone":
        return "standalone"
    if not is_detectron2_installed():
        if setting == "detectron2":
            raise ImportError(f"SCALEEQ_ENGINE=detectron2, but Detectron2 is not installed; see {INSTALL_PAGE}")
        return "standalone"
    try:
        importlib.import_module("detectron2.engine")
    except Exception as error:  # whatever a broken installation raises
        raise ImportError(
            f"Detectron2 is installed but does not import ({type(error).__name__}: {error}); "
            f"repair it ({INSTALL_PAGE}), or set SCALEEQ_ENGINE=standalone"
        ) from error
    return "detectron2"


def is_detectron2_installed() -> bool:
    """Whether there is a real package of that name: a bare folder named detectron2, a namespace, has no origin."""
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin is not None


def is_detectron2_chosen() -> bool:
    """Whether the engine is Detectron2, without loading it. ValueError: an unknown value of SCALEEQ_ENGINE."""
    return _known(_setting()) != "standalone" and is_detectron2_installed()


def _setting() -> str:
    return os.environ.get("SCALEEQ_ENGINE") or "auto"


def _known(setting: str) -> str:
    if setting not in CHOICES:
        raise ValueError(f"SCALEEQ_ENGINE={setting!r} is not one of {', '.join(CHOICES)}")
    return setting


@functools.lru_cache(maxsize=1)
def _engine() -> dict[str, Any]:
    """Everything that depends on the choice, by name."""
    setting = _setting()
    name = choose_engine(setting)
    names = load_names(name)
    package = importlib.import_module("detectron2" if name == "detectron2" else "scaleeq.engine.standalone")
    chosen = {
        "NAME": name,
        "VERSION": package.__version__,
        "FEATURES": Features(detection=name == "detectron2"),
    }
    logging.getLogger("scaleeq.engine").info("engine: %s %s (SCALEEQ_ENGINE=%s)", name, package.__version__, setting)
    return names | chosen


if not TYPE_CHECKING:  # a type checker would take it for permission to import any name

    def __getattr__(name: str) -> object:
        if name in _OURS:
            value = getattr(importlib.import_module(f".{_OURS[name]}", __name__), name)
        elif name in __all__:
            value = _engine()[name]
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [*(entry.name for entry in CONTRACT), *_OURS, *_CHOSEN]
