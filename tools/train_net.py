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
import importlib.util
from collections.abc import Mapping
from typing import Any

from scaleeq import console

console.start()

from scaleeq.engine import default_argument_parser, run_job
from scaleeq.training import Trainer, check_run, evaluate_only, prepare_run
from scaleeq.training.testing import Evaluation


class DrawingTrainer(Trainer):
    """The trainer whose pictures have a legend, where matplotlib, whose font they are written in, is installed."""

    @classmethod
    def pictures(cls, evaluation: Evaluation) -> Mapping[str, Any]:
        if importlib.util.find_spec("matplotlib") is None:
            return super().pictures(evaluation)
        from scaleeq.reports.pictures.evaluation import evaluation_sheets  # not sooner: it takes half a second

        return evaluation_sheets(evaluation)


def check(args: argparse.Namespace, num_processes: int) -> None:
    check_run(args, DrawingTrainer, num_processes=num_processes)


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    with prepare_run(args) as cfg:
        if args.eval_only:
            return evaluate_only(cfg, DrawingTrainer, resume=args.resume)
        trainer = DrawingTrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()


if __name__ == "__main__":
    parser = console.adopt(default_argument_parser(epilog=__doc__))
    console.run(lambda: run_job(main, parser.parse_args(), check=check))
