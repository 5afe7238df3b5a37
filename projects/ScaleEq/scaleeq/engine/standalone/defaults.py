"""What a training script starts with: command line, output folder, loggers, seed, writers, and a look at the machine.

Source: the interface, defaults and order of Detectron2's engine/defaults.py, the behaviour of its utils/env.py (seeds)
and the purpose of its utils/collect_env.py. Deviations: a config is a CfgNode (there also OmegaConf's), the config is
logged without colours, TF32 settings are not echoed; the table of the environment is shorter and never calls a
compiler or a driver.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import random
import sys

import numpy as np
import torch

from . import comm
from .config import CfgNode
from .events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from .logger import setup_logger


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


_EXAMPLES = """
Examples:

One machine, one process:
    $ {program} --config-file cfg.yaml

One machine, 8 GPUs, with some options of the config changed:
    $ {program} --config-file cfg.yaml --num-gpus 8 MODEL.WEIGHTS model.pth SOLVER.BASE_LR 0.001

Two machines (the URL names the first one):
    (machine 0)$ {program} --machine-rank 0 --num-machines 2 --dist-url <URL> [other options]
    (machine 1)$ {program} --machine-rank 1 --num-machines 2 --dist-url <URL> [other options]
"""


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """The options of every training script. epilog: replaces the examples in --help."""
    parser = argparse.ArgumentParser(
        epilog=epilog or _EXAMPLES.format(program=sys.argv[0]), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to a config file")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint of the output folder")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs (without CUDA: processes) per machine")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="rank of this machine, 0 to num-machines - 1")
    # The port depends on the user alone, so that an orphan of an earlier job shows as a port that is taken.
    user = os.getuid() if sys.platform != "win32" else 1
    port = 2**15 + 2**14 + hash(user) % 2**14
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where rank 0 listens, or 'auto'")
    parser.add_argument(
        "opts", default=None, nargs=argparse.REMAINDER, help="PATH.KEY VALUE pairs that change the config"
    )
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Make the output folder, set up the loggers, log environment, arguments and config, write config.yaml, seed.

    cfg: reads OUTPUT_DIR, SEED (negative: random; rank is added), CUDNN_BENCHMARK, FLOAT32_PRECISION.
    args: reads config_file and eval_only, where present.
    """
    # Folder and loggers.
    rank = comm.get_rank()
    output_dir = cfg.get("OUTPUT_DIR") or None
    if comm.is_main_process() and output_dir:
        os.makedirs(output_dir, exist_ok=True)
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    logger = setup_logger(output_dir, distributed_rank=rank)

    # What this run is.
    logger.info(f"Rank of current process: {rank}. World size: {comm.get_world_size()}")
    logger.info("Environment info:\n" + collect_env_info())
    logger.info(f"Command line arguments: {args}")
    if getattr(args, "config_file", ""):
        with open(args.config_file) as file:
            logger.info(f"Contents of args.config_file={args.config_file}:\n{file.read()}")
    if comm.is_main_process() and output_dir:
        path = os.path.join(output_dir, "config.yaml")
        logger.info(f"Running with full config:\n{cfg.dump()}")
        with open(path, "w") as file:
            file.write(cfg.dump())
        logger.info(f"Full config saved to {path}")

    # Random numbers and precision.
    seed = cfg.get("SEED", -1)
    seed_all_rng(None if seed < 0 else seed + rank)
    if not getattr(args, "eval_only", False):  # images of an evaluation differ in size: tuning costs more than it gains
        torch.backends.cudnn.benchmark = cfg.get("CUDNN_BENCHMARK", False)
    _set_float32_precision(cfg.get("FLOAT32_PRECISION", ""))


def _set_float32_precision(precision: str) -> None:
    """precision: "" (leave), "highest", "high" or "medium", of matrix products and convolutions; CUDA only."""
    if precision and torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def default_writers(output_dir: str, max_iter: int | None = None) -> list[EventWriter]:
    """The log's line, metrics.json and TensorBoard, in this order. max_iter: for the ETA."""
    os.makedirs(output_dir, exist_ok=True)
    return [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(output_dir, "metrics.json")),
        TensorboardXWriter(output_dir),
    ]
