"""Train, or evaluate, what a config describes.

    scaleeq train quickstart
    scaleeq train NAME_OR_CONFIG --resume
    scaleeq train NAME_OR_CONFIG --eval-only MODEL.WEIGHTS model_final.pth
    scaleeq train NAME_OR_CONFIG --num-gpus 2
    scaleeq train NAME_OR_CONFIG --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
    torchrun --nproc_per_node 2 -m scaleeq train NAME_OR_CONFIG
    srun --ntasks-per-node 8 scaleeq train NAME_OR_CONFIG           one training of eight processes (docs/cluster.md)
    python tools/train_net.py --config-file NAME_OR_CONFIG ...      the classic form, with the same options

--resume goes on after an interruption (from the start where there is no checkpoint yet); without it, a folder that
holds a run is refused. --eval-only writes into OUTPUT_DIR/inference: results.json, config.yaml, log.txt. Without a GPU,
--num-gpus is the number of processes on the CPU. KEY VALUE pairs at the end override the config. Data sets are found
under $DETECTRON2_DATASETS (default ./datasets).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from scaleeq import console
from scaleeq.engine.job_options import check_options
from scaleeq.slurm import has_started_several, is_first_here

from .words import is_key, refuse_early, refuse_weights, shortened

if TYPE_CHECKING:
    import numpy as np

    from scaleeq.training import Trainer
    from scaleeq.training.testing import Evaluation, Results

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
    # Under torchrun and srun one process of a machine tells what is wrong.
    first = is_first_here(os.environ)
    if first:
        if "RANK" not in os.environ and not has_started_several(os.environ):
            check_options(arguments, default_url=parser().get_default("dist_url"))
        early = refuse_early(arguments.config_file, arguments.opts)
        if not arguments.resume:
            refuse_weights(arguments.config_file, early, needed=False)
    arguments.opts, notices = shortened(arguments.config_file, arguments.opts)
    for notice in notices if first else ():
        print(f"note: {notice}", file=sys.stderr)
    from scaleeq.engine import run_job

    run_job(main, arguments, check=check)


def check(args: argparse.Namespace, num_processes: int) -> None:
    """Raise what is wrong with the command line, before the job's processes are started and anything is logged."""
    from scaleeq.training import check_run

    check_run(args, drawing_trainer(), num_processes=num_processes)


def main(args: argparse.Namespace) -> Results | None:
    """One process of the job: the results of the last evaluation, where there is one."""
    from scaleeq.training import evaluate_only, prepare_run

    trainer_class = drawing_trainer()
    with prepare_run(args) as cfg:
        if args.eval_only:
            return evaluate_only(cfg, trainer_class, resume=args.resume)
        trainer = trainer_class(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()


def drawing_trainer() -> type[Trainer]:
    """The trainer whose pictures have a legend, where matplotlib, whose font they are written in, is installed."""
    from scaleeq.training import Trainer

    class DrawingTrainer(Trainer):
        @classmethod
        def pictures(cls, evaluation: Evaluation) -> Mapping[str, np.ndarray]:
            if importlib.util.find_spec("matplotlib") is None:
                return super().pictures(evaluation)
            from scaleeq.reports.pictures.evaluation import evaluation_sheets  # not sooner: it takes half a second

            return evaluation_sheets(evaluation)

    return DrawingTrainer
