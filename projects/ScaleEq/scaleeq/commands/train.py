"""Train, or evaluate, what a config describes.

    scaleeq train quickstart
    scaleeq train NAME_OR_CONFIG --resume
    scaleeq train NAME_OR_CONFIG --eval-only MODEL.WEIGHTS model_final.pth
    scaleeq train NAME_OR_CONFIG --num-gpus 2
    scaleeq train NAME_OR_CONFIG --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
    torchrun --nproc_per_node 2 -m scaleeq train NAME_OR_CONFIG
    python tools/train_net.py --config-file NAME_OR_CONFIG ...      the classic form, with the same options

--resume goes on after an interruption (from the start where there is no checkpoint yet); without it, a folder that
holds a run is refused. --eval-only writes into OUTPUT_DIR/inference: results.json, config.yaml, log.txt. Without a GPU,
--num-gpus is the number of processes on the CPU. KEY VALUE pairs at the end override the config. Data sets are found
under $DETECTRON2_DATASETS (default ./datasets).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scaleeq import console

from .words import is_key, refuse_early

if TYPE_CHECKING:
    from scaleeq.engine import CfgNode

logger = logging.getLogger("scaleeq.train_net")

STOPPED = "stopped"


def parser() -> argparse.ArgumentParser:
    """The options of Detectron2's training scripts; NAME_OR_CONFIG is the first of the words that are no options."""
    parser = console.parser(__doc__)
    parser.usage = "%(prog)s [NAME_OR_CONFIG] [options] [KEY VALUE ...]"
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    return add_job_options(parser)


def add_job_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of a job, with Detectron2's names and defaults, and the words that follow them."""
    parser.add_argument("--config-file", default="", metavar="C", help="a config's path or name, with +overlays")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint of the output folder")
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs (without CUDA: processes) per machine")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="rank of this machine, 0 to num-machines - 1")
    # Detectron2's: the port depends on the user alone, so that an orphan of an earlier job shows as a port taken.
    user = os.getuid() if sys.platform != "win32" else 1
    port = 2**15 + 2**14 + hash(user) % 2**14
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where rank 0 listens, or 'auto'")
    parser.add_argument("opts", default=None, nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The words; options may stand on both sides of NAME_OR_CONFIG, and before the KEY VALUE pairs."""
    arguments = parser.parse_args(argv)
    if arguments.config_file or not arguments.opts or is_key(arguments.opts[0]):
        return arguments
    name, rest = arguments.opts[0], arguments.opts[1:]
    return parser.parse_args([*argv[: len(argv) - len(rest) - 1], "--config-file", name, *rest])


def run(arguments: argparse.Namespace) -> None:
    """Start the job. Its names and values are read here first, without torch."""
    if os.environ.get("LOCAL_RANK", "0") == "0":  # under torchrun one process of a machine tells what is wrong
        refuse_early(arguments.config_file, arguments.opts)
    from scaleeq.engine import run_job

    run_job(main, arguments, check=check)


def check(args: argparse.Namespace, num_processes: int) -> None:
    """Raise what is wrong with the command line, before the job's processes are started and anything is logged."""
    from scaleeq.engine import load_config
    from scaleeq.training import Trainer, rehearse

    cfg = load_config(args.config_file, args.opts)
    rehearse(cfg, Trainer, resume=args.resume, eval_only=args.eval_only, num_processes=num_processes)


def setup(args: argparse.Namespace, cfg: CfgNode, warnings: list[str]) -> None:
    """Freeze the config of the command line; set up its OUTPUT_DIR, log and seeds. warnings: for the log."""
    from scaleeq.config import config_files
    from scaleeq.engine import comm, default_setup, setup_logger
    from scaleeq.training import (
        check_output_dir,
        choose_algorithms,
        choose_device,
        evaluation_config,
        limit_threads,
        log_changes,
        log_engine,
    )

    changes = check_output_dir(cfg, resume=args.resume, eval_only=args.eval_only)
    written = evaluation_config(cfg) if args.eval_only else cfg
    setup_logger(written.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="scaleeq")
    choose_device(cfg)
    cfg.freeze()
    # It logs the one file that it is told, and a name may stand for several.
    default_setup(written, argparse.Namespace(**{**vars(args), "config_file": ""}))
    log_engine()
    if args.config_file:
        logger.info("Config %s: %s", args.config_file, ", ".join(map(str, config_files(args.config_file))))
    for warning in warnings:
        logger.warning(warning)
    log_changes(changes)
    limit_threads(cfg)
    choose_algorithms(cfg)


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """One process of the job: the results of the last evaluation, where there is one."""
    from scaleeq.engine import load_config
    from scaleeq.training import RunLock, Trainer, evaluate_only

    cfg = load_config(args.config_file, args.opts)
    with RunLock(cfg, eval_only=args.eval_only) as warnings:
        setup(args, cfg, warnings)
        if args.eval_only:
            return evaluate_only(cfg, Trainer, resume=args.resume)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
