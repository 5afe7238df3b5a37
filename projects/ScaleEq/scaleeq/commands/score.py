"""Score label pictures that any framework has written: no model, no config.

    scaleeq eval --predictions output/predictions --dataset ade20k_150_val
    python tools/evaluate_predictions.py results --dataset cityscapes_sem_seg_val --label-ids --json results.json

PRED_DIR, with the folders in it, holds a PNG for each image, of its name: NAME.png, one channel or a palette, labels
0..K-1; with --label-ids the raw values of the data set's own label files (Cityscapes' labelIds, ADE20K's 1..150). A
data set is a registered one or "folder:PATH/SPLIT", found under $DETECTRON2_DATASETS. The table is printed; --json
writes the same numbers, in the shape of a run's inference/results.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from scaleeq import console
from scaleeq.files import require_writable, write_json

from .words import counting, refuse_no_folder

STOPPED = "stopped; nothing is written"
POLICIES = ("exclude", "zero", "one", "truth")


def parser() -> argparse.ArgumentParser:
    parser = console.parser(__doc__)
    parser.add_argument("predictions", metavar="PRED_DIR")
    parser.add_argument("--dataset", required=True, metavar="NAME", help="for example camvid_sem_seg_val")
    add_options(parser)
    return parser


def add_options(parser: argparse._ActionsContainer) -> None:
    """What is counted, and where it is written."""
    parser.add_argument("--json", metavar="FILE", help="where the results are written too")
    parser.add_argument(
        "--absent", default="exclude", choices=POLICIES, help="what becomes of classes that are in no truth"
    )
    parser.add_argument("--boundary", action="store_true", help="also trimap mIoU, boundary F-score, boundary IoU")
    parser.add_argument(
        "--workers", type=counting, default=_num_cpus(), metavar="N", help="processes (default: %(default)s)"
    )
    parser.add_argument("--label-ids", action="store_true", help="the pictures hold the data set's raw values")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace) -> None:
    if arguments.json:
        require_writable(arguments.json, key="--json")
    refuse_no_folder(arguments.predictions)
    from scaleeq.data import find_dataset, read_labels
    from scaleeq.data.reading import read_instances
    from scaleeq.engine import setup_logger
    from scaleeq.evaluation import Reader, score_predictions

    find_dataset(arguments.dataset)
    setup_logger(name="scaleeq")
    results = score_predictions(
        arguments.predictions,
        arguments.dataset,
        Reader(labels=read_labels, instances=read_instances),
        absent=arguments.absent,
        boundary=arguments.boundary,
        label_ids=arguments.label_ids,
        workers=arguments.workers,
    )
    if arguments.json:
        write_json(arguments.json, results)


def _num_cpus() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
