"""What stands around a run, in its order: everything is refused first; then the folder is taken, then the log begins.

    with prepare_run(args) as cfg:
        trainer = Trainer(cfg)
        ...

Here `args` are those of the training command.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from scaleeq import engine
from scaleeq.config import config_files
from scaleeq.engine import CfgNode, comm, default_setup, load_config, setup_logger

from .console_log import first_lines
from .output_dir import RunLock, check_output_dir, evaluation_config, log_changes
from .recipe import Recipe
from .rehearsal import rehearse
from .setup import choose_algorithms, choose_device, limit_threads

logger = logging.getLogger(__name__)


def check_run(args: argparse.Namespace, recipe: type[Recipe] = Recipe, *, num_processes: int) -> None:
    """Raise what is wrong with the command line, before the job's processes are started and anything is logged.

    num_processes: of the job. ValueError, KeyError, OSError, ImportError: what is wrong, and the way out.
    """
    cfg = load_config(args.config_file, args.opts)
    rehearse(cfg, recipe, resume=args.resume, eval_only=args.eval_only, num_processes=num_processes)


@contextmanager
def prepare_run(args: argparse.Namespace) -> Iterator[CfgNode]:
    """The frozen config of the command line, for a process of the job; inside, its folder is this run's alone.

    Its OUTPUT_DIR, log, seeds, device, threads and algorithms are set up.

    FolderInUse: another run writes there. ValueError: the folder holds another run's checkpoints.
    """
    cfg = load_config(args.config_file, args.opts)
    with RunLock(cfg, eval_only=args.eval_only) as warnings:
        _set_up(args, cfg, warnings)
        yield cfg


def _set_up(args: argparse.Namespace, cfg: CfgNode, warnings: Sequence[str]) -> None:
    """warnings: of the lock, for the log."""
    # Refuse, before anything is written.
    changes = check_output_dir(cfg, resume=args.resume, eval_only=args.eval_only)
    written = evaluation_config(cfg) if args.eval_only else cfg
    # Begin the log.
    setup_logger(written.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="scaleeq")
    choose_device(cfg)
    cfg.freeze()
    # As default_setup does, whose long records are cut on the console.
    setup_logger(written.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fvcore")
    setup_logger(written.OUTPUT_DIR, distributed_rank=comm.get_rank())
    with first_lines():  # it logs the one file that it is told, and a name may stand for several
        default_setup(written, argparse.Namespace(**{**vars(args), "config_file": ""}))
    logger.info("Engine: %s %s", engine.NAME, engine.VERSION)
    if args.config_file:
        logger.info("Config %s: %s", args.config_file, ", ".join(map(str, config_files(args.config_file))))
    for warning in warnings:
        logger.warning(warning)
    log_changes(changes)
    # Set up the process.
    limit_threads(cfg)
    choose_algorithms(cfg)
