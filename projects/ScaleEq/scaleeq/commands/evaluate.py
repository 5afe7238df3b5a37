"""Evaluate a model, or label pictures that any framework has written.

    scaleeq eval NAME_OR_CONFIG MODEL.WEIGHTS model_final.pth           is scaleeq train NAME_OR_CONFIG --eval-only
    scaleeq eval NAME_OR_CONFIG --resume OUTPUT_DIR output/run          the last checkpoint of a run
    scaleeq eval --predictions PRED_DIR --dataset ade20k_150_val        no model: NAME.png for each image

A name of `scaleeq models` that has weights needs no MODEL.WEIGHTS. A model's results lie in OUTPUT_DIR/inference.
PRED_DIR, with the folders in it, holds a PNG for each image, of its name; tools/evaluate_predictions.py --help says
what is in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from scaleeq import console
from scaleeq.zoo import read_table, released_weights

from . import score, train
from .words import refuse_early

STOPPED = "stopped"
OF_PICTURES = ("json", "absent", "boundary", "workers", "label_ids")  # options of `score`


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.usage = "%(prog)s [NAME_OR_CONFIG | --predictions DIR --dataset NAME] [options] [KEY VALUE ...]"
    train.add_job_options(parser)
    pictures = parser.add_argument_group("label pictures instead of a model")
    pictures.add_argument("--predictions", metavar="PRED_DIR", help="a folder of NAME.png")
    pictures.add_argument("--dataset", metavar="NAME", help="for example camvid_sem_seg_val")
    score.add_options(pictures)
    parser.set_defaults(eval_only=True)
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    arguments = train.parse(parser, argv)
    if arguments.predictions and (arguments.config_file or arguments.opts):
        parser.error("--predictions is instead of a model: leave out the config and its keys")
    if bool(arguments.predictions) != bool(arguments.dataset):
        parser.error("--predictions PRED_DIR and --dataset NAME belong together")
    given = [name for name in OF_PICTURES if getattr(arguments, name) != parser.get_default(name)]
    if given and not arguments.predictions:
        parser.error(f"--{given[0].replace('_', '-')} goes with --predictions PRED_DIR alone, not with a model")
    return arguments


def run(arguments: argparse.Namespace) -> None:
    name, opts = arguments.config_file, arguments.opts
    if not arguments.resume and name in read_table() and "MODEL.WEIGHTS" not in opts[::2]:
        refuse_early(name, opts)
        arguments.opts = [*opts, "MODEL.WEIGHTS", released_weights(name)]
    (score if arguments.predictions else train).run(arguments)
