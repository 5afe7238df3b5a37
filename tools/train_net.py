#!/usr/bin/env python3
"""Train, or evaluate, what a config describes.

    python tools/train_net.py --config-file configs/quickstart.yaml
    python tools/train_net.py --config-file C --resume
    python tools/train_net.py --config-file C --eval-only MODEL.WEIGHTS model_final.pth
    python tools/train_net.py --config-file C --num-gpus 2
    python tools/train_net.py --config-file C --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
    torchrun --nproc_per_node 2 tools/train_net.py --config-file C

--resume goes on after an interruption (from the start where there is no checkpoint yet); without it, a folder that
holds a run is refused. --eval-only writes into OUTPUT_DIR/inference: results.json, config.yaml, log.txt. Without a GPU,
--num-gpus is the number of processes on the CPU. KEY VALUE pairs at the end override the config. Data sets are found
under $DETECTRON2_DATASETS (default ./datasets).
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

from scaleeq import console

console.start()

from scaleeq.config import config_files
from scaleeq.engine import (
    CfgNode,
    comm,
    default_argument_parser,
    default_setup,
    load_config,
    run_job,
    setup_logger,
)
from scaleeq.training import (
    RunLock,
    Trainer,
    check_output_dir,
    choose_algorithms,
    choose_device,
    evaluate_only,
    evaluation_config,
    limit_threads,
    log_changes,
    log_engine,
    rehearse,
)

logger = logging.getLogger("scaleeq.train_net")


def check(args: argparse.Namespace, num_processes: int) -> None:
    """Raise what is wrong with the command line, before the job's processes are started and anything is logged."""
    cfg = load_config(args.config_file, args.opts)
    rehearse(cfg, Trainer, resume=args.resume, eval_only=args.eval_only, num_processes=num_processes)


def setup(args: argparse.Namespace, cfg: CfgNode, warnings: list[str]) -> None:
    """Freeze the config of the command line; set up its OUTPUT_DIR, log and seeds. warnings: for the log."""
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
    cfg = load_config(args.config_file, args.opts)
    with RunLock(cfg, eval_only=args.eval_only) as warnings:
        setup(args, cfg, warnings)
        if args.eval_only:
            return evaluate_only(cfg, Trainer, resume=args.resume)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()


if __name__ == "__main__":
    parser = console.adopt(default_argument_parser(epilog=__doc__))
    console.run(lambda: run_job(main, parser.parse_args(), check=check))
