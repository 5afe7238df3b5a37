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
import os
from typing import Any

# Threads that wait by spinning make every step of a busy machine 5 to 10 times slower. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
)

logger = logging.getLogger("scaleeq.train_net")


def setup(args: argparse.Namespace, cfg: CfgNode, warnings: list[str]) -> None:
    """Freeze the config of the command line; set up its OUTPUT_DIR, log and seeds. warnings: for the log."""
    changes = check_output_dir(cfg, resume=args.resume, eval_only=args.eval_only)
    written = evaluation_config(cfg) if args.eval_only else cfg
    setup_logger(written.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="scaleeq")
    choose_device(cfg)
    cfg.freeze()
    default_setup(written, args)
    log_engine()
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
    run_job(main, default_argument_parser(epilog=__doc__).parse_args())
