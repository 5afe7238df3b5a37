"""Random seeds and what a run says about its environment.

Source: the behaviour of Detectron2's `utils/env.py` (seeds) and the purpose of its `utils/collect_env.py`. Deviation:
the environment table is shorter and never calls a compiler or a driver.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import sys

import numpy as np
import torch


def seed_all_rng(seed: int | None = None) -> None:
    """Seed python's, numpy's and torch's generators (all devices). None: a seed from the system, logged."""
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big")
        logging.getLogger(__name__).info("Using a generated random seed %d", seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    random.seed(seed)
    torch.cuda.manual_seed_all(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)


def collect_env_info() -> str:
    """A table of versions and devices, then torch's build flags."""
    rows = [("sys.platform", sys.platform), ("Python", sys.version.replace("\n", "")), ("engine", "standalone")]
    for name in ("numpy", "torch", "torchvision", "fvcore", "iopath", "PIL", "cv2"):
        try:
            rows.append((name, getattr(importlib.import_module(name), "__version__", "unknown")))
        except ImportError:
            rows.append((name, "not found"))
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    rows.append(("GPUs", ", ".join(torch.cuda.get_device_name(i) for i in range(num_gpus)) or "none"))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    rule = f"{'-' * widths[0]}  {'-' * widths[1]}"
    return "\n".join([rule, *(f"{name:{widths[0]}}  {value}" for name, value in rows), rule, torch.__config__.show()])
